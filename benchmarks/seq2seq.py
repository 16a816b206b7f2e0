"""Compares sequence-to-sequence methods at equal size and training FLOPs.

Three kinds of diffusion and autoregression are compared.

  python -m benchmarks.seq2seq --data=FOLDER --workdir=runs/seq2seq

FOLDER contains squad_question_generation, small_parallel_enja and e2e_nlg. Each
run trains, answers the first held-out sources with one sample and with ten
candidates, and adds a line to the results. Finished runs are skipped and an
interrupted one resumes. --curve adds lines of DiffuSeq with 5 to 2,000 steps,
with the corrected stride and with the published one.
"""

import argparse
import dataclasses
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks import common, runs
from textdiffusion.config import Config
from textdiffusion.core.paths import expand
from textdiffusion.core.types import X0
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.sources import open_source
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.answers import answers
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.evals.seq2seq import report
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.diffuseq import DiffuSeq
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.seqdiffuseq import SeqDiffuSeq
from textdiffusion.nn.transformer import TransformerConfig, flops_per_token
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.autoregressive import LeftToRight
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.latent import (
  DDIM,
  Clamp,
  GaussianAncestral,
  LatentSampler,
)
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig

RESULTS = Path(__file__).parent / 'results' / 'seq2seq.jsonl'
BUDGET = 1.5e13  # Training FLOPs per run: a few minutes on one core.
BATCH, HALF, STEPS = 16, 40, 50  # HALF: tokens in a source, and in a target.
SOURCES, CANDIDATES, TIMED = 100, 10, 20  # TIMED: sources in a timed batch.
CURVE = (5, 10, 20, 50, 100, 200, 500, 1000, 2000)
CURVE_SOURCES = 20

# (source, tokenizer of sacreBLEU, size of the vocabulary)
TASKS = {
  'questions': (
    'squad_question_generation/src-{split}.txt,'
    'squad_question_generation/tgt-{split}.txt?train=dev&heldout=test',
    '13a',
    4000,
  ),
  'en-ja': (
    'small_parallel_enja/{split}.en,small_parallel_enja/{split}.ja'
    '?heldout=test',
    'char',
    4000,
  ),
  'e2e': ('e2e_nlg/src1_{split}.txt*?sep=||&heldout=test', '13a', 2000),
}


def variants(size: int, length: int, num_steps: int = 2000) -> dict[str, Any]:
  """Returns the methods that are compared, by name.

  SeqDiffuSeq refits its schedule at thirds of its run, see `config_of`.

  Args:
    size: width of the embeddings.
    length: tokens in a target.
    num_steps: diffusion steps of the embedding noise, T.
  """

  def seqdiffuseq(**kwargs: Any) -> SeqDiffuSeq:
    return SeqDiffuSeq(
      size=size, std=1.0, num_steps=num_steps, length=length, bins=50, **kwargs
    )

  return {
    'autoregressive': Autoregressive(),
    'mdlm': MDLM(),
    'diffuseq': DiffuSeq(size=size, num_steps=num_steps),
    'seqdiffuseq': seqdiffuseq(),
    'seqdiffuseq, fixed noise': seqdiffuseq(adaptive=False),
    'seqdiffuseq, no self-conditioning': seqdiffuseq(self_condition=None),
    'seqdiffuseq, neither': seqdiffuseq(adaptive=False, self_condition=None),
  }


def is_joined(name: str) -> bool:
  """Returns whether source and target are in one row."""
  return name in ('mdlm', 'diffuseq')


def is_causal(name: str) -> bool:
  """Returns whether the network is causal."""
  return name == 'autoregressive'


METHODS = variants(size=64, length=HALF)


def answer_sampler(method: Any, steps: int) -> Sampler:
  """Returns the sampler of a method; left-to-right sampling ignores `steps`."""
  if isinstance(method, Autoregressive):
    return LeftToRight(stop_at_eos=True)
  if hasattr(method, 'size'):
    return GaussianAncestral(steps, 'uniform', clamp=Clamp())
  return Ancestral(steps)


def config_of(name: str, task: str, root: str, budget: float) -> Config:
  """Returns the config of a run.

  All networks have one size: four layers for joined rows, or two layers and an
  encoder of two layers for separate rows.

  Args:
    name: a name in METHODS.
    task: a name in TASKS.
    root: folder of the tasks.
    budget: training FLOPs.
  """
  method = METHODS[name]
  joined, causal = is_joined(name), is_causal(name)
  source, _, vocab_size = TASKS[task]
  paths = ','.join(f'{root}/{part}' for part in source.split(','))
  data = DataConfig(
    source=f'pairs:{paths}',
    tokenizer=TokenizerConfig('sentencepiece', vocab_size=vocab_size),
    length=2 * HALF if joined else HALF,
    source_length=0 if joined else HALF,
    batch_size=BATCH,
    rows='joined' if joined else 'separate',
    model_padding=True,
    long='drop',
  )
  model = TransformerConfig(
    num_layers=4 if joined else 2,
    d_model=192,
    num_heads=6,
    time='none' if causal else 'adaln',
    encoder_layers=0 if joined else 2,
  )
  features = getattr(method, 'size', 0)
  width = features or vocab_size
  cost = flops_per_token(
    model, width, data.length, source_length=data.source_length
  )
  if features:  # Logits are computed from x_start.
    cost += 2 * features * vocab_size
  # Self-conditioned steps, usually half of all, have one more forward pass.
  passes = 3 + (getattr(method, 'self_condition', None) or 0)
  steps = round(budget / (passes * cost * BATCH * data.length))
  if getattr(method, 'adaptive', False):
    third = max(steps // 3, 1)
    method = dataclasses.replace(method, refit_every=third, refit_from=third)
  return Config(
    method=method,
    data=data,
    model=model,
    train=TrainConfig(
      steps=steps,
      optimizer=OptimizerConfig(peak_lr=1e-3, warmup_steps=100),
      ema=0.99,
      log_every=20,
      eval_every=0,
      checkpoint_every=200,
      keep=1,
    ),
    evaluate=EvaluateConfig(rows=256),
    sampler=answer_sampler(method, STEPS if features else HALF),
  )


def heldout(
  config: Config, tokenizer: Any, limit: int
) -> tuple[list[str], list[list[str]]]:
  """Returns the first `limit` sources that fit, and all their references."""
  pairs = open_source(config.data.source, 0.0).pairs
  assert pairs is not None
  grouped: dict[str, list[str]] = {}
  for source, target in pairs('heldout'):
    grouped.setdefault(source, []).append(target)
  fits = (s for s in grouped if len(tokenizer.encode(s)) < HALF)
  sources = list(itertools.islice(fits, limit))
  return sources, [grouped[source] for source in sources]


def run(name: str, task: str, options: argparse.Namespace) -> dict[str, Any]:
  """Trains a method on a task and answers; returns a line of the results."""
  config = config_of(name, task, options.data, options.budget)
  workdir = (
    options.workdir / f'{task}-{name.replace(", ", "_").replace(" ", "_")}'
  )
  trained = runs.train(config, workdir)
  tokenizer = trained.data.tokenizer
  sources, references = heldout(config, tokenizer, options.sources)

  def answer(sources: list[str], count: int = 1) -> Iterator[list[str]]:
    return answers(
      *trained.model,
      tokenizer,
      config.data,
      trained.method.sampler,
      sources,
      count,
      batch_size=TIMED,
    )

  one = answer(sources[: 2 * TIMED])
  list(itertools.islice(one, TIMED))  # Compiles.
  began = time.perf_counter()
  timed = len(list(one))
  spent = time.perf_counter() - began
  candidates = list(answer(sources, CANDIDATES))
  return {
    'task': task,
    'method': name,
    **report(candidates, references, TASKS[task][1]),
    'seconds_per_sample': spent / timed,
    'network_calls': getattr(config.sampler, 'steps', HALF),
    'train_steps': config.train.steps,
    'train_seconds': trained.seconds,
    'loss': trained.loss,
    'nats_per_token': trained.curve[-1][1],
    'parameters': trained.num_params,
    'examples': [
      {'source': s, 'answer': c[0], 'reference': r[0]}
      for s, c, r in zip(sources[:3], candidates, references)
    ],
    **common.facts(),
  }


class Published(LatentSampler):
  """DDIM as in the released code of DiffuSeq.

  It visits every k-th of the T training times, but each step has the
  coefficients of a step by 1 / T.
  """

  def reverse(self, process: Any, x0: Any, carry: Any, s: Any, t: Any) -> Any:
    before = t - 1 / process.schedule.num_steps * (t > 0)
    return process.bridge(X0(x0), carry.x, before, t, 0.0)


def curve(options: argparse.Namespace) -> list[dict[str, Any]]:
  """Measures DiffuSeq on questions: quality of a sample by number of steps."""
  config = config_of('diffuseq', 'questions', options.data, options.budget)
  workdir = options.workdir / 'questions-diffuseq'
  trained = runs.train(config, workdir)
  method, tokenizer = trained.method, trained.data.tokenizer
  sources, references = heldout(config, tokenizer, CURVE_SOURCES)
  lines = []
  for steps in CURVE:
    # With all steps the stride is one, and both kinds are the same chain.
    is_full = steps == method.process.schedule.num_steps
    kinds = {'ddim': DDIM, 'published': Published}
    for name in ('ddim',) if is_full else kinds:
      sampler = kinds[name](steps, 'uniform', clamp=Clamp())
      given = answers(
        method,
        trained.network,
        trained.trained,
        tokenizer,
        config.data,
        sampler,
        sources,
        batch_size=len(sources),
      )
      figures = report(list(given), references)['first']
      lines.append(
        {'steps': steps, 'sampler': name, **figures, **common.facts()}
      )
      print(json.dumps(lines[-1]))
      jax.clear_caches()
  return lines


def table(lines: list[dict[str, Any]]) -> None:
  """Prints Markdown tables of the results, for one sample and best of ten."""
  runs = [line for line in lines if 'method' in line]
  for task in TASKS:
    print(f'\n**{task}**\n')
    print(
      '| | BLEU | ROUGE-L | distinct-1, 4 | words | BLEU of 10 | ROUGE-L of 10 '
      '| self-BLEU | calls | s a sample | steps |'
    )
    print('|' + '---|' * 11)
    for line in runs:
      if line['task'] != task:
        continue
      first, chosen = line['first'], line['chosen']
      cells = (
        line['method'],
        f'{first["bleu"]:.2f}',
        f'{first["rouge_l"]:.3f}',
        f'{first["distinct_1"]:.2f}, {first["distinct_4"]:.2f}',
        f'{first["words"]:.1f}',
        f'{chosen["bleu"]:.2f}',
        f'{chosen["rouge_l"]:.3f}',
        f'{line["self_bleu"]:.1f}',
        line['network_calls'],
        f'{line["seconds_per_sample"]:.3f}',
        line['train_steps'],
      )
      print('| ' + ' | '.join(map(str, cells)) + ' |')
  print('\n| steps | BLEU | ROUGE-L | BLEU, published | ROUGE-L, published |')
  print('|' + '---|' * 5)
  by_place = {
    (line['steps'], line['sampler']): line for line in lines if 'steps' in line
  }
  for steps in CURVE:
    cells = []
    for name in ('ddim', 'published'):
      one = by_place.get((steps, name))
      cells += (
        [f'{one["bleu"]:.2f}', f'{one["rouge_l"]:.3f}'] if one else ['', '']
      )
    print(f'| {steps} | ' + ' | '.join(cells) + ' |')


def picture(lines: list[dict[str, Any]], path: str) -> None:
  """Plots ROUGE-L by number of steps, for both strides of DiffuSeq."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  figure, axes = pyplot.subplots(figsize=(6, 3.2))
  for name, label in (('ddim', 'corrected'), ('published', 'as published')):
    rows = [line for line in lines if line.get('sampler') == name]
    steps = [line['steps'] for line in rows]
    axes.plot(steps, [line['rouge_l'] for line in rows], 'o-', label=label)
  axes.set_xscale('log')
  axes.set_xticks(CURVE, labels=map(str, CURVE))
  axes.set_ylim(bottom=0)
  axes.set_xlabel('steps, of 2,000')
  axes.set_ylabel('ROUGE-L')
  axes.legend(title="DiffuSeq's stride")
  axes.spines[['top', 'right']].set_visible(False)
  figure.savefig(path, dpi=150, bbox_inches='tight')


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.seq2seq')
  parser.add_argument('--data', type=expand, help='where the tasks are')
  parser.add_argument('--workdir', type=expand)
  parser.add_argument('--tasks', default=','.join(TASKS))
  parser.add_argument('--methods', default=';'.join(METHODS), help='a;b;c')
  parser.add_argument('--budget', type=float, default=BUDGET)
  parser.add_argument('--sources', type=int, default=SOURCES)
  parser.add_argument('--results', type=expand, default=RESULTS)
  parser.add_argument('--curve', action='store_true')
  parser.add_argument('--picture', type=expand, help='of the curve, a file')
  parser.add_argument('--table', action='store_true', help='print and end')
  options = parser.parse_args()
  if options.table:
    return table(runs.finished(options.results))
  if options.picture:
    return picture(runs.finished(options.results), options.picture)
  if not options.data or not options.workdir:
    parser.error('--data=FOLDER and --workdir=FOLDER are both needed')
  add = lambda line: runs.append(options.results, line)
  for task in options.tasks.split(','):
    for name in options.methods.split(';'):
      done = {
        (r.get('method'), r.get('task')) for r in runs.finished(options.results)
      }
      if (name, task) not in done:
        print(f'--- {name}, {task}')
        add(run(name, task, options))
        jax.clear_caches()
  if options.curve and not any(
    'sampler' in r for r in runs.finished(options.results)
  ):
    for line in curve(options):
      add(line)


if __name__ == '__main__':
  main()
