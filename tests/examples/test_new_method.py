"""A new method in at most 60 lines, with no change to the library: SUNDAE,
step-unrolled denoising autoencoders (Savinov et al. 2022).

The network corrects random tokens, then its own draw. It is trained, saved,
loaded and sampled as any other method.
"""

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import textdiffusion as td
from tests.fuzz.launchers import launch
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.numerics import log_one_hot
from textdiffusion.core.types import Posterior
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import RawHead
from textdiffusion.objectives.base import Loss
from textdiffusion.processes.rank_one import uniform
from textdiffusion.samplers.base import draw_rows
from textdiffusion.samplers.grid import GridSampler
from textdiffusion.schedules.noise import Linear, Schedule
from textdiffusion.schedules.times import continuous

pytestmark = pytest.mark.usefixtures('quick_compile')


@dataclasses.dataclass(frozen=True)
class Unrolled:
  """Cross-entropy of the text, given noise and given a draw of the network."""

  estimand: str = 'surrogate'

  def __call__(self, models, key, batch):
    model, nats = models.student, {}
    t = continuous(batch.u[:, None])
    keys = row_keys(key, batch.rows)
    x = jax.vmap(model.process.corrupt)(keys, batch.ids, t)
    for name in ('noise', 'draw'):
      prediction = Categorical(model(x, t).head.logits)
      nats[name] = -0.5 * prediction.log_prob(batch.ids)
      keys = row_keys(stream(key, name), batch.rows)
      x = jax.lax.stop_gradient(draw_rows(keys, prediction))
    return Loss(nats['noise'] + nats['draw'], nats)


@dataclasses.dataclass(frozen=True)
class Redraw(GridSampler):
  """Draws every token anew in each step; given ones, t = 0, stay."""

  steps: int = 10

  def transition(self, process):
    def redraw(head, x, s, t):
      stays = log_one_hot(x, process.num_states)
      return Categorical(jnp.where(t[..., None] > 0, head.logits, stays))

    return redraw


@dataclasses.dataclass(frozen=True)
class SUNDAE:
  """SUNDAE. schedule: of the fraction of tokens that are random."""

  schedule: Schedule = Linear()
  default_sampler: ClassVar = Redraw()

  def build(self, vocab):
    return Method(
      process=uniform(vocab.size, self.schedule),
      objective=Unrolled(),
      evaluator=Unrolled(),  # no bound: reports say so
      head=RawHead(Posterior),
      sampler=self.default_sampler,
      needs=Needs(num_states=vocab.size),
    )


def test_it_is_short():
  parts = (Unrolled, Redraw, SUNDAE)
  assert sum(len(inspect.getsource(part).splitlines()) for part in parts) <= 60


RECIPES = """
import textdiffusion as td
import sundae  # of the same folder

RECIPES = {'tiny': td.Config(
  sundae.SUNDAE(),
  data=td.data.DataConfig(
    source='toy_grammar:400', length=24, batch_size=16,
    tokenizer=td.data.TokenizerConfig('characters'),
  ),
  model=td.TransformerConfig(num_layers=1, d_model=16, num_heads=2),
  train=td.TrainConfig(steps=2, eval_every=0),
)}
"""


def test_it_is_trained_and_sampled_on_the_command_line(tmp_path, monkeypatch):
  """The method lies beside the recipe file, and a setting was changed."""
  source = Path(__file__).read_text()
  (tmp_path / 'sundae.py').write_text(source[: source.index('\ndef test_')])
  file = tmp_path / 'recipes.py'
  file.write_text(RECIPES)
  monkeypatch.delitem(sys.modules, 'sundae', raising=False)
  before = list(sys.path)
  config, workdir = f'--config={file}:tiny', f'--workdir={tmp_path}/run'
  outcome = launch('train', [config, '--set=model.num_layers=2', workdir])
  assert outcome.code == 0 and sys.path == before, outcome
  monkeypatch.delitem(sys.modules, 'sundae')
  outcome = launch('sample', [workdir])
  assert outcome.code == 2 and 'import sundae first' in outcome.err
  assert '--config=FILE.py; FILE.py may lie beside sundae.py' in outcome.err
  for named in (config, f'--config={file}'):
    outcome = launch('sample', [workdir, named, '--num=2'])
    assert outcome.code == 0 and '--- 2' in outcome.out, outcome
    assert 'which is used: change it by --set' in outcome.err, outcome
  assert sys.path == before
  monkeypatch.delitem(sys.modules, 'sundae')


def test_a_method_in_the_recipe_file_itself_is_refused(tmp_path):
  source = Path(__file__).read_text()
  recipes = RECIPES.replace('import sundae', '').replace('sundae.', '')
  file = tmp_path / 'recipes.py'
  file.write_text(source[: source.index('\nRECIPES')] + recipes)
  outcome = launch('train', [f'--config={file}', f'--workdir={tmp_path}/run'])
  assert 'SUNDAE is defined in a config file' in outcome.err, outcome
  assert outcome.code == 2 and not (tmp_path / 'run').exists()


def test_it_is_trained_saved_loaded_and_sampled(tmp_path, monkeypatch):
  config = td.Config(
    SUNDAE(),
    data=td.data.DataConfig(
      source='toy_grammar:400',
      tokenizer=td.data.TokenizerConfig('characters'),
      length=24,
      batch_size=16,
    ),
    model=td.TransformerConfig(num_layers=1, d_model=32, num_heads=2),
    train=td.TrainConfig(
      steps=60,
      log_every=1,
      eval_every=0,
      optimizer=td.OptimizerConfig(peak_lr=1e-2, warmup_steps=5),
    ),
  )
  run = td.train(config, tmp_path / 'run')
  losses = [row['loss'] for row in run.metrics() if 'loss' in row]
  assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])
  model = td.load(run)
  made = model.sample(2, prompt='the ', sampler=Redraw(steps=3))
  assert all(text.startswith('the ') for text in made.texts)
  assert made.samples.calls == 3
  # A class that is not imported is named; code is never imported unasked.
  monkeypatch.delitem(sys.modules, SUNDAE.__module__)
  with pytest.raises(td.UserError, match='import tests.examples.test_new_meth'):
    td.load(run)
