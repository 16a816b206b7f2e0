"""What notes/own_method.md shows works: a method and a recipe in own files."""

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import textdiffusion as td
from textdiffusion.config import load

PAGE = Path(__file__).parents[2] / 'notes' / 'own_method.md'

pytestmark = pytest.mark.usefixtures('quick_compile')


@pytest.fixture
def folder(tmp_path, monkeypatch):
  """A folder on the path with the two files of the page."""
  texts = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.S)
  for name, text in zip(('plain', 'recipes'), texts, strict=True):
    (tmp_path / f'{name}.py').write_text(text)
  monkeypatch.syspath_prepend(tmp_path)
  yield tmp_path
  sys.modules.pop('plain', None)


def test_the_page_trains_evaluates_and_samples(folder):
  settings = (
    'data.source=toy_grammar:400',
    "data.tokenizer=TokenizerConfig('characters')",
    'data.length=24',
    'data.batch_size=16',
    'model=TransformerConfig(num_layers=1, d_model=32, num_heads=2)',
    'train=TrainConfig(60, log_every=1, eval_every=0, '
    'optimizer=OptimizerConfig(1e-2, 5))',
    'method.schedule=Linear()',
  )
  config = load(f'{folder}/recipes.py:small', settings)
  run = td.train(config, folder / 'run')
  losses = [row['loss'] for row in run.metrics() if 'loss' in row]
  assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:3])
  assert td.evaluate(run)['bits_per_byte'] > 0
  model = td.load(run)
  assert model.sample(2, prompt='the ').texts[0].startswith('the ')


def test_the_plain_loss_is_the_bound_without_its_weight(folder):
  plain = importlib.import_module('plain')
  from textdiffusion.core.types import Cavity
  from textdiffusion.objectives.nelbo import masked_bound
  from textdiffusion.processes.rank_one import absorbing
  from textdiffusion.schedules.noise import Linear

  process = absorbing(4, 3, Linear())
  logits = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
  x0, xt = np.array([0, 1, 2]), np.array([3, 1, 3])
  head = Cavity(logits)
  weighted = masked_bound(process, x0, head, xt, 0.25)  # the weight is 1 / t
  found = plain.cross_entropy(process, x0, head, xt, 0.25)
  np.testing.assert_allclose(found, 0.25 * weighted, rtol=1e-5)
