"""Compares sequence-to-sequence methods on a solvable task: reversal.

  python -m benchmarks.toy_pairs --workdir=runs/toy_pairs --scale=cpu
  python -m benchmarks.toy_pairs --workdir=runs/toy_pairs --scale=gpu \
    --parallel=12

DiffuSeq, four variants of SeqDiffuSeq, MDLM with a source, and autoregression
write the words of held-out sentences of `toy_pairs` in reverse order. The
figure is the share of exact matches. See `runs` for the flags and
benchmarks/results/seq2seq.md for the results.
"""

import argparse
import dataclasses
import itertools
import math
from typing import Any, NamedTuple

from benchmarks import runs
from benchmarks.known_law import words_file, write_words
from benchmarks.seq2seq import (
  answer_sampler,
  is_causal,
  is_joined,
  variants,
)
from textdiffusion.config import Config
from textdiffusion.data.pipeline import DataConfig, open_data
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.answers import answers
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig

HALF = 12  # Tokens in a source, and in a target, eos included.
METHODS = variants(size=32, length=HALF, num_steps=500)
RATES = (5e-4, 1e-3, 2e-3)
SHORT = 8  # A short run for the learning rate has 1 / SHORT of the steps.


class Scale(NamedTuple):
  """A preset.

  Attributes:
    layers: layers of the network; with separate rows, half of them are an
      encoder.
    width: width of the network.
    heads: attention heads of the network.
    steps: training steps.
    batch: pairs in a batch.
    pairs: number of training pairs.
    rows: rows of the held-out evaluation.
    draws: draws of the held-out evaluation.
    eval_batch: rows per call of the evaluation.
    rates: learning rates to try.
    sources: held-out sources that are answered, with one sample each.
    answer_steps: sampling steps, except for autoregression.
  """

  layers: int
  width: int
  heads: int
  steps: int
  batch: int
  pairs: int
  rows: int
  draws: int
  eval_batch: int
  rates: tuple[float, ...]
  sources: int
  answer_steps: int


SCALES = {
  'smoke': Scale(2, 32, 2, 24, 16, 400, 32, 4, 16, (2e-3,), 16, 10),
  'cpu': Scale(4, 128, 4, 3000, 64, 50_000, 4096, 64, 64, RATES, 1024, 50),
  'gpu': Scale(4, 128, 4, 6000, 128, 200_000, 4096, 64, 512, RATES, 2048, 50),
}


def config_of(
  name: str,
  scale: Scale,
  seed: int,
  words: str,
  rate: float,
  steps: int | None = None,
) -> Config:
  """Returns the config of a run; the arguments are as in `known_law`."""
  method, total = METHODS[name], steps or scale.steps
  joined, causal = is_joined(name), is_causal(name)
  if getattr(method, 'adaptive', False):
    third = max(total // 3, 1)
    method = dataclasses.replace(method, refit_every=third, refit_from=third)
  return Config(
    method=method,
    data=DataConfig(
      source=f'toy_pairs:{scale.pairs}',
      tokenizer=TokenizerConfig('words', path=words),
      length=2 * HALF if joined else HALF,
      source_length=0 if joined else HALF,
      batch_size=scale.batch,
      rows='joined' if joined else 'separate',
      model_padding=True,
      seed=seed,
    ),
    model=TransformerConfig(
      num_layers=scale.layers if joined else scale.layers // 2,
      d_model=scale.width,
      num_heads=scale.heads,
      time='none' if causal else 'adaln',
      max_positions=2 * HALF if joined else HALF,
      encoder_layers=0 if joined else scale.layers // 2,
    ),
    train=TrainConfig(
      steps=total,
      seed=seed,
      optimizer=OptimizerConfig(
        peak_lr=rate, warmup_steps=min(200, total // 10), final_lr_ratio=0.0
      ),
      ema=0.995 if total > 1000 else 0.99,
      log_every=max(total // 50, 1),
      eval_every=max(total // 4, 1),
      checkpoint_every=max(total // 4, 1),
      keep=1,
    ),
    sampler=answer_sampler(method, scale.answer_steps),
    evaluate=EvaluateConfig(
      rows=min(512, scale.rows),
      draws=min(16, scale.draws),
      batch_size=scale.eval_batch,
    ),
  )


def prepare(options: argparse.Namespace) -> None:
  """Writes the words; with --prepare also tokenises, and caches the tokens."""
  write_words(options)
  if options.prepare:
    scale = SCALES[options.scale]
    words = words_file(options)
    open_data(config_of('mdlm', scale, 0, words, scale.rates[0]).data)


def exact_matches(
  job: runs.Job, trained: runs.TrainedRun, count: int
) -> dict[str, Any]:
  """Answers `count` held-out sources and counts exact matches.

  Returns:
    The share of answers that equal their reference word for word, its binomial
    standard error, the number of sources, and some examples.
  """
  assert trained.data.source.pairs is not None
  pairs = list(itertools.islice(trained.data.source.pairs('heldout'), count))
  given = answers(
    *trained.model,
    trained.data.tokenizer,
    trained.config.data,
    trained.method.sampler,
    [source for source, _ in pairs],
    seed=runs.sample_seed(job),
    batch_size=min(count, 512),
  )
  texts = [one[0] for one in given]
  share = sum(a == b for a, (_, b) in zip(texts, pairs)) / len(pairs)
  return {
    'exact': share,
    'exact_se': math.sqrt(share * (1 - share) / len(pairs)),
    'sources': len(pairs),
    'examples': [
      {'source': s, 'answer': a, 'reference': r}
      for a, (s, r) in zip(texts[:3], pairs)
    ],
  }


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
  return {
    'peak_lr': rate,
    'rates': runs.nats_by_rate(nats),
    **exact_matches(job, trained, scale.sources),
    'answer_steps': HALF if is_causal(job.method) else scale.answer_steps,
    'bound': runs.held_out(trained, settings),
    'curve': trained.curve,
    'loss': trained.loss,
    'train_seconds': trained.seconds,
    'train_pairs': scale.steps * scale.batch,
    'parameters': trained.num_params,
  }


EXPERIMENT = runs.Experiment(
  'toy_pairs', tuple(METHODS), run, seeds='0,1,2', prepare=prepare
)

if __name__ == '__main__':
  runs.start(EXPERIMENT)
