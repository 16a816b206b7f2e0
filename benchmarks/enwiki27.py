"""Compares five methods on a Wikipedia sample in 27 characters.

  python -m benchmarks.enwiki27 --workdir=runs/enwiki27 --prepare \
    --dump=enwiki.xml.bz2 --text=enwiki27.txt.gz
  python -m benchmarks.enwiki27 --workdir=runs/enwiki27 --scale=gpu \
    --text=enwiki27.txt.gz --parallel=5

The text has one article per line and is split by article. It is not text8,
which has 100 million characters of another dump, cleaned in another way. See
`runs` for the flags and benchmarks/results/enwiki27.md for the results.
"""

import argparse
import dataclasses
from typing import Any, Literal, NamedTuple

from benchmarks import runs, wikipedia
from benchmarks.discrete_methods import METHODS as DISCRETE
from textdiffusion.config import Config
from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import DataConfig, open_data
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.methods.duo import Duo
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig

METHODS = {
  name: DISCRETE[name].method
  for name in ('autoregressive', 'mdlm', 'd3pm_absorbing_bound', 'udlm', 'duo')
}
LENGTH = 128
HOLDOUT = 0.1  # Share of the articles: 14 of 106, with 4,233 rows to evaluate.
SHORT = 10  # A short run for the learning rate has 1 / SHORT of the steps.


class Scale(NamedTuple):
  """A preset.

  Attributes:
    layers: layers of the network.
    width: width of the network.
    heads: attention heads of the network.
    dtype: type of the computation.
    steps: training steps.
    batch: rows in a batch.
    rates: learning rates to try.
    rows: rows of the held-out evaluation.
    draws: draws of the held-out evaluation.
    eval_batch: rows per call of the evaluation.
  """

  layers: int
  width: int
  heads: int
  dtype: Literal['float32', 'bfloat16']
  steps: int
  batch: int
  rates: tuple[float, ...]
  rows: int
  draws: int
  eval_batch: int


# 6,000 x 16 rows of 128 are 12.3 million characters, and 2,000 x 64 rows are
# 16.4 million. The training split has 2.4 million.
SCALES = {
  'smoke': Scale(1, 32, 2, 'float32', 20, 4, (2e-3,), 8, 4, 8),
  'cpu': Scale(
    4, 128, 4, 'float32', 6000, 16, (1e-3, 2e-3, 4e-3), 4096, 64, 32
  ),
  'gpu': Scale(
    6, 512, 8, 'bfloat16', 2000, 64, (5e-4, 1e-3, 2e-3), 4096, 64, 256
  ),
}


def config_of(
  name: str,
  scale: Scale,
  seed: int,
  text: str,
  rate: float,
  steps: int | None = None,
) -> Config:
  """Returns the config of a run; runs differ only in the method and its needs.

  Args:
    name: a name in METHODS.
    scale: the preset.
    seed: seed of data order, parameters and noise.
    text: path of the text, one article per line.
    rate: peak learning rate.
    steps: training steps of a short run; None uses those of the preset.
  """
  method, total = METHODS[name], steps or scale.steps
  if isinstance(method, Duo):
    method = dataclasses.replace(method, curriculum_steps=total // 2)
  return Config(
    method=method,
    data=DataConfig(
      source=f'files:{text}?split=line',
      tokenizer=TokenizerConfig('characters'),
      length=LENGTH,
      batch_size=scale.batch,
      holdout=HOLDOUT,
      seed=seed,
    ),
    model=TransformerConfig(
      num_layers=scale.layers,
      d_model=scale.width,
      num_heads=scale.heads,
      time='adaln',
      dtype=scale.dtype,
    ),
    train=TrainConfig(
      steps=total,
      seed=seed,
      optimizer=OptimizerConfig(
        peak_lr=rate, warmup_steps=max(total // 20, 1), final_lr_ratio=0.0
      ),
      ema=0.99,
      log_every=max(total // 50, 1),
      eval_every=max(total // 4, 1),
      checkpoint_every=max(total // 4, 1),
      keep=1,
    ),
    evaluate=EvaluateConfig(
      rows=min(256, scale.rows),
      draws=min(16, scale.draws),
      batch_size=scale.eval_batch,
    ),
  )


def prepare(options: argparse.Namespace) -> None:
  """Writes the text from the dump, if --dump names one."""
  if options.dump:
    wikipedia.prepare(options.dump, options.text)
  if not options.text.exists():
    raise UserError(
      f'--text={options.text} does not exist: write it with --prepare '
      '--dump=FILE.xml.bz2'
    )
  if options.prepare:
    scale = SCALES[options.scale]
    config = config_of('mdlm', scale, 0, str(options.text), 1e-3)
    print(open_data(config.data).counts)


def run(job: runs.Job) -> dict[str, Any]:
  """Runs a job; returns its line of the results."""
  scale, text = SCALES[job.scale], str(job.options.text)
  short = max(scale.steps // SHORT, 4)
  nats = runs.pick_rate(
    job,
    scale.rates,
    lambda rate: config_of(job.method, scale, 0, text, rate, short),
  )
  rate = runs.best_rate(nats)
  config = config_of(job.method, scale, job.seed, text, rate)
  trained = runs.train(config, job.folder)
  settings = EvaluateConfig(
    rows=scale.rows,
    draws=scale.draws,
    batch_size=scale.eval_batch,
  )
  return {
    'peak_lr': rate,
    'rates': runs.nats_by_rate(nats),
    'bound': runs.held_out(trained, settings),
    'curve': trained.curve,
    'loss': trained.loss,
    'train_seconds': trained.seconds,
    'train_tokens': scale.steps * scale.batch * LENGTH,
    'parameters': trained.num_params,
    'data': trained.data.counts,
  }


def add_flags(parser: argparse.ArgumentParser) -> None:
  """Adds the flags of the text and of the dump that it is written from."""
  parser.add_argument('--text', type=expand, required=True, help='.txt.gz')
  parser.add_argument('--dump', type=expand, help='MediaWiki .xml.bz2')


EXPERIMENT = runs.Experiment(
  'enwiki27',
  tuple(METHODS),
  run,
  seeds='0,1',
  prepare=prepare,
  add_flags=add_flags,
  forward=('text',),
)

if __name__ == '__main__':
  runs.start(EXPERIMENT)
