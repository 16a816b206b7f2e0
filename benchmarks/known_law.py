"""Compares every method on a grammar with a known distribution.

  python -m benchmarks.known_law --workdir=runs/known_law --scale=cpu
  python -m benchmarks.known_law --workdir=runs/known_law --scale=gpu \
    --parallel=12 --minutes=8
  python -m benchmarks.known_law --table

A row is one sentence of `toy_grammar` with a token per word; padding is
modelled. A run reports the bound next to the true -log p of the same sentences.
It also reports samples by number of steps, with their validity and -log p under
the grammar. See `runs` for the flags and benchmarks/results/known_law.md for
the results.
"""

import argparse
import dataclasses
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import runs
from benchmarks.discrete_methods import METHODS as DISCRETE
from textdiffusion.config import Config
from textdiffusion.core.keys import row_keys, stream
from textdiffusion.data.grammar import toy_grammar
from textdiffusion.data.pipeline import DataConfig, open_data
from textdiffusion.data.tokenizers import Tokenizer, TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.ar_diffusion import ARDiffusion
from textdiffusion.methods.cdcd import CDCD
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.duo import Duo
from textdiffusion.methods.edit_flows import EditFlows
from textdiffusion.methods.flexmdm import FlexMDM
from textdiffusion.methods.flow_lm import FlowLM
from textdiffusion.methods.plaid import Plaid
from textdiffusion.methods.ssd_lm import SSDLM
from textdiffusion.model import Model, Trained, bind
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.autoregressive import LeftToRight
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.first_hitting import FirstHitting
from textdiffusion.samplers.latent import (
  DDIM,
  Clamp,
  GaussianAncestral,
  Renoise,
)
from textdiffusion.samplers.options import with_options
from textdiffusion.samplers.prompts import blank
from textdiffusion.samplers.psi import Psi
from textdiffusion.samplers.rates import Euler
from textdiffusion.samplers.remask import Remask
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig

LENGTH = 12  # The longest sentence has 11 words, followed by eos.
SHORT = 8  # A short run for the learning rate has 1 / SHORT of the steps.


class Scale(NamedTuple):
  """A preset.

  Attributes:
    layers: layers of the network.
    width: width of the network.
    heads: attention heads of the network.
    steps: training steps.
    batch: sentences in a batch.
    sentences: number of training sentences.
    rows: rows of the held-out evaluation.
    draws: draws of the held-out evaluation.
    eval_batch: rows per call of the evaluation.
    rates: learning rates to try.
    samples: sentences that each sampler draws.
    grids: numbers of sampling steps.
  """

  layers: int
  width: int
  heads: int
  steps: int
  batch: int
  sentences: int
  rows: int
  draws: int
  eval_batch: int
  rates: tuple[float, ...]
  samples: int
  grids: tuple[int, ...]


RATES = (1e-3, 2e-3, 4e-3)
GRIDS = (4, 8, 16, 32, 64, 128, 256)
SCALES = {
  'smoke': Scale(1, 32, 2, 16, 16, 400, 32, 4, 16, (2e-3,), 16, (4, 8)),
  'cpu': Scale(3, 128, 4, 4000, 128, 200_000, 4096, 64, 64, RATES, 2048, GRIDS),
  # Reading 128 short rows takes as long as a step; more would wait for data.
  'gpu': Scale(
    3, 128, 4, 6000, 128, 200_000, 4096, 64, 512, RATES, 2048, GRIDS
  ),
}

_CLAMPED = GaussianAncestral(grid='uniform', clamp=Clamp())
_DDIM = DDIM(grid='uniform')
# Methods with continuous noise, and the samplers of their configs.
LATENT: dict[str, tuple[Any, Sampler]] = {
  'diffusion_lm': (DiffusionLM(size=32, num_steps=500), _CLAMPED),
  'diffusion_lm, bound': (
    DiffusionLM(size=32, num_steps=500, loss='bound'),
    _CLAMPED,
  ),
  'ar_diffusion': (
    ARDiffusion(size=32, num_steps=500),
    dataclasses.replace(_CLAMPED, multi_level=True),
  ),
  'cdcd': (CDCD(size=32, refit_every=200), _DDIM),
  'plaid': (Plaid(), GaussianAncestral(grid='uniform')),
  'flow_lm': (FlowLM(size=32), _DDIM),
  'ssd_lm': (
    SSDLM(num_steps=1000),
    Renoise(grid='uniform', clamp=Clamp()),
  ),
}
GROWING: dict[str, Any] = {'flexmdm': FlexMDM(), 'edit_flows': EditFlows()}
METHODS: dict[str, Any] = {
  **{name: entry.method for name, entry in DISCRETE.items()},
  **GROWING,
  **{name: method for name, (method, _) in LATENT.items()},
}
# Samplers whose errors are compared by number of steps.
SAMPLERS: dict[str, Sampler] = {
  'ancestral': Ancestral(),
  'first_hitting': FirstHitting(),
  'remdm': Remask(kind='cap', eta=0.02),
  'psi': Psi(kind='constant', eta=0.1),
  'euler': Euler(),
}
# The samplers of some methods; all others use the sampler of their config.
SWEEPS = {
  'mdlm': tuple(SAMPLERS),
  'udlm': ('ancestral', 'psi', 'euler'),
}


def config_of(
  name: str,
  scale: Scale,
  seed: int,
  words: str,
  rate: float,
  steps: int | None = None,
) -> Config:
  """Returns the config of a run; runs differ only in the method and its needs.

  Args:
    name: a name in METHODS.
    scale: the preset.
    seed: seed of data order, parameters and noise.
    words: path of the list of the grammar's words.
    rate: peak learning rate.
    steps: training steps of a short run; None uses those of the preset.
  """
  method, total = METHODS[name], steps or scale.steps
  if isinstance(method, Duo):
    method = dataclasses.replace(method, curriculum_steps=total // 2)
  return Config(
    method=method,
    data=DataConfig(
      source=f'toy_grammar:{scale.sentences}',
      tokenizer=TokenizerConfig('words', path=words),
      length=LENGTH,
      batch_size=scale.batch,
      rows='document',
      model_padding=True,
      seed=seed,
    ),
    model=TransformerConfig(
      num_layers=scale.layers,
      d_model=scale.width,
      num_heads=scale.heads,
      time='adaln',
      max_positions=LENGTH,
    ),
    train=TrainConfig(
      steps=total,
      seed=seed,
      optimizer=OptimizerConfig(
        peak_lr=rate, warmup_steps=min(200, total // 10), final_lr_ratio=0.0
      ),
      ema=0.998 if total > 1000 else 0.99,
      log_every=max(total // 50, 1),
      # Evaluated at each quarter, to see whether the bound still decreases.
      eval_every=max(total // 4, 1),
      checkpoint_every=max(total // 4, 1),
      keep=1,
    ),
    evaluate=EvaluateConfig(
      rows=min(512, scale.rows),
      draws=min(16, scale.draws),
      batch_size=scale.eval_batch,
    ),
  )


def words_file(options: argparse.Namespace) -> str:
  """Returns the path of the grammar's words, one per line, sorted."""
  return str(options.workdir / 'words.txt')


def write_words(options: argparse.Namespace) -> None:
  """Writes `words_file`, unless it exists."""
  path = Path(words_file(options))
  if path.exists():
    return
  grammar = toy_grammar()
  words = sorted(
    {
      symbol
      for rules in grammar.rules.values()
      for _, symbols in rules
      for symbol in symbols
      if symbol not in grammar.rules
    }
  )
  # Several processes may write it at the same time.
  scratch = path.with_suffix(f'.{os.getpid()}.tmp')
  scratch.write_text('\n'.join(words))
  scratch.replace(path)


def prepare(options: argparse.Namespace) -> None:
  """Writes the words; with --prepare also tokenises, and caches the tokens."""
  write_words(options)
  if options.prepare:
    scale = SCALES[options.scale]
    words = words_file(options)
    open_data(config_of('mdlm', scale, 0, words, scale.rates[0]).data)


def chain(
  trained: runs.TrainedRun, rows: int, sampler: Sampler, seed: int
) -> Any:
  """Returns a function from a number of steps to (ids [rows, L], calls).

  The samples of `rows` rows are equal to those of `generate`. Only one step is
  compiled, and called in a Python loop, so that all numbers of steps share it.
  """
  learnt, length = trained.trained, trained.config.data.length
  canvas, places = blank(rows, length), jnp.arange(rows)
  key = stream(jax.random.key(seed), 'sample')

  def bound(learnt: Trained) -> Model:
    return bind(trained.method, trained.network, learnt)

  @jax.jit
  def first(learnt: Trained) -> Any:
    keys = row_keys(stream(key, 'start'), places)
    return sampler.init(keys, bound(learnt), canvas)

  @jax.jit
  def step(learnt: Trained, index: Any, carry: Any, s: Any, t: Any) -> Any:
    keys = row_keys(jax.random.fold_in(stream(key, 'loop'), index), places)
    s, t = (jnp.broadcast_to(time, (rows, length)) for time in (s, t))
    return sampler.step(keys, bound(learnt), carry, s, t)

  @jax.jit
  def ids(learnt: Trained, carry: Any) -> Any:
    return sampler.frame(bound(learnt), carry).ids

  def run(steps: int | None) -> tuple[np.ndarray, int]:
    many = with_options(sampler, steps)
    grid = jax.jit(lambda learnt: many.times(bound(learnt), canvas))(learnt)
    carry = first(learnt)
    for i in range(len(grid) - 1):
      carry = step(learnt, jnp.asarray(i), carry, grid[i + 1], grid[i])
    return np.asarray(ids(learnt, carry)), int(carry.calls)

  return run


def sentences(ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[str]:
  """Yields the text of each row, '' unless it is text, eos and padding."""
  vocab = tokenizer.vocab
  for row in ids:
    ends = np.flatnonzero(row == vocab.eos_id)
    if not len(ends) or (row[ends[0] + 1 :] != vocab.pad_id).any():
      yield ''
      continue
    body = row[: ends[0]]
    text = tokenizer.decode(body)
    yield text if np.array_equal(tokenizer.encode(text), body) else ''


def under_the_law(texts: list[str]) -> dict[str, float]:
  """Scores sentences under the grammar.

  Returns:
    A dict with
      valid, valid_se: share of sentences with a positive probability.
      nats, nats_se: mean -log p of the valid ones; it equals the entropy of the
        grammar if they are drawn from its distribution.
      distinct: share of distinct sentences.
  """
  grammar = toy_grammar()
  known = {text: grammar.log_prob(text) for text in set(texts)}
  nats = -np.asarray([known[text] for text in texts])
  is_valid = np.isfinite(nats)
  share, count = float(is_valid.mean()), len(texts)
  some = nats[is_valid]
  error = some.std(ddof=1) / math.sqrt(len(some)) if len(some) > 1 else math.nan
  return {
    'valid': share,
    'valid_se': math.sqrt(share * (1 - share) / count),
    'nats': float(some.mean()) if len(some) else math.nan,
    'nats_se': float(error),
    'distinct': len(known) / count,
  }


def sampled(job: runs.Job, trained: runs.TrainedRun) -> list[dict[str, Any]]:
  """Returns validity and -log p of samples by sampler and number of steps."""
  scale, name = SCALES[job.scale], job.method
  seed = runs.sample_seed(job)
  own = LATENT[name][1] if name in LATENT else trained.method.sampler
  names = SWEEPS.get(name)
  chosen = {n: SAMPLERS[n] for n in names} if names else {'default': own}
  lines = []
  for label, sampler in chosen.items():
    run = chain(trained, scale.samples, sampler, seed)
    # Left-to-right and first-hitting samplers have no grid of times.
    is_fixed = isinstance(sampler, LeftToRight | FirstHitting)
    for steps in (None,) if is_fixed else scale.grids:
      ids, calls = run(steps)
      texts = list(sentences(ids, trained.data.tokenizer))
      lines.append(
        {
          'sampler': label if names else type(sampler).__name__,
          'steps': steps or LENGTH,
          'calls': calls,
          **under_the_law(texts),
          'sample': texts[:3],
        }
      )
  return lines


def run(job: runs.Job) -> dict[str, Any]:
  """Runs a job; returns its line of the results."""
  scale, words = SCALES[job.scale], words_file(job.options)
  short = max(scale.steps // SHORT, 4)
  nats = runs.pick_rate(
    job,
    scale.rates,
    lambda rate: config_of(job.method, scale, 0, words, rate, short),
  )
  rate = runs.best_rate(nats)
  config = config_of(job.method, scale, job.seed, words, rate)
  trained = runs.train(config, job.folder)
  settings = EvaluateConfig(
    rows=scale.rows,
    draws=scale.draws,
    batch_size=scale.eval_batch,
  )
  bound = runs.held_out(trained, settings)
  heldout = [
    text for text, _ in zip(trained.data.texts('heldout'), range(scale.samples))
  ]
  return {
    'peak_lr': rate,
    'rates': runs.nats_by_rate(nats),
    'bound': bound,
    'gap_nats_per_sentence': bound['gap_nats_per_token']
    * bound['tokens']
    / bound['rows'],
    'curve': trained.curve,
    'loss': trained.loss,
    'train_seconds': trained.seconds,
    'train_tokens': scale.steps * scale.batch * LENGTH,
    'parameters': trained.num_params,
    'samples': sampled(job, trained),
    'heldout_under_the_law': under_the_law(heldout),
    'entropy': toy_grammar().entropy(),
  }


EXPERIMENT = runs.Experiment(
  'known_law', tuple(METHODS), run, seeds='0,1,2', prepare=prepare
)

if __name__ == '__main__':
  runs.start(EXPERIMENT)
