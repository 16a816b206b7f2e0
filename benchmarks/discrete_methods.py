"""Every discrete method at equal compute: one network, the same work.

  python -m benchmarks.discrete_methods --workdir=runs/discrete
  python -m benchmarks.discrete_methods --workdir=runs/discrete \
    --corpus=text8 --dump=enwiki.xml.bz2 --seeds=0

Each run trains, evaluates the held-out bound, samples, and adds a line to the
results; finished runs are skipped and a broken one resumes, so that the command
may be repeated until all is there. The table beside the lines is drawn anew
after each run.
"""

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common, text8
from launch import train as launcher
from launch.heldout import evaluator
from textdiffusion.config import Config, build
from textdiffusion.core.paths import expand
from textdiffusion.data.pipeline import Data, DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.generation import fill
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.evals.quality import judged, report
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.methods.dfm import DFM
from textdiffusion.methods.duo import Duo
from textdiffusion.methods.genmd4 import GenMD4
from textdiffusion.methods.gidd import GIDD
from textdiffusion.methods.md4 import MD4
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.radd import RADD
from textdiffusion.methods.sedd import SEDD
from textdiffusion.methods.udlm import UDLM
from textdiffusion.methods.xdlm import XDLM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.sampling.generate import SampleConfig
from textdiffusion.sampling.prompts import blank
from textdiffusion.schedules.betas import CosineBetas
from textdiffusion.training import checkpoint
from textdiffusion.training.mesh import make_mesh
from textdiffusion.training.metrics import read
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig

RESULTS = Path(__file__).parent / 'results' / 'discrete_methods.jsonl'
STEPS, BATCH_TOKENS, SAMPLES = 400, 2048, 64
JUDGE = 'judge'  # an autoregressive model trained four times as long


class Entry(NamedTuple):
  """A method of the table. cost: of a step in units of MDLM's; its batch is
  cut by that, so that all methods do the same work."""

  method: Any
  cost: int = 1


METHODS: dict[str, Entry] = {
  'autoregressive': Entry(Autoregressive()),
  'mdlm': Entry(MDLM()),
  'md4': Entry(MD4()),
  'genmd4': Entry(GenMD4(), cost=2),
  'radd': Entry(RADD('k_DCE')),
  'sedd': Entry(SEDD()),
  'sedd_uniform': Entry(SEDD('uniform')),
  'd3pm_absorbing': Entry(D3PM('absorbing')),
  'd3pm_uniform': Entry(D3PM('uniform', CosineBetas())),
  # What the hybrid term is worth; in continuous time these are MDLM and UDLM.
  'd3pm_absorbing_bound': Entry(D3PM('absorbing', hybrid=0.0)),
  'd3pm_uniform_bound': Entry(D3PM('uniform', CosineBetas(), hybrid=0.0)),
  'udlm': Entry(UDLM()),
  'duo': Entry(Duo(curriculum_steps=STEPS // 2)),
  'gidd': Entry(GIDD()),
  'xdlm': Entry(XDLM()),
  'dfm': Entry(DFM()),
  'dfm_uniform': Entry(DFM('uniform')),
}


def config_of(name: str, corpus: str, seed: int, text: str = '') -> Config:
  """The whole run: only method, corpus and seed differ."""
  entry = METHODS['autoregressive' if name == JUDGE else name]
  is_causal = isinstance(entry.method, Autoregressive)
  data = {
    'python_docs': DataConfig(
      source='python_docs',
      tokenizer=TokenizerConfig('sentencepiece', vocab_size=1024),
      length=64,
    ),
    'text8': DataConfig(
      source=f'files:{text}?split=line',
      tokenizer=TokenizerConfig('characters'),
      length=128,
    ),
  }[corpus]
  return Config(
    method=entry.method,
    data=dataclasses.replace(
      data,
      batch_size=BATCH_TOKENS // data.length // entry.cost,
      seed=seed,
      holdout=0.1,
    ),
    # Every network is told the time, the autoregressive one always 0.
    model=TransformerConfig(
      num_layers=4,
      d_model=192,
      num_heads=6,
      time='adaln',
      attend='causal' if is_causal else 'bidirectional',
    ),
    train=TrainConfig(
      steps=4 * STEPS if name == JUDGE else STEPS,
      seed=seed,
      optimizer=OptimizerConfig(peak_lr=2e-3, warmup_steps=50),
      ema=0.99,
      log_every=20,
      eval_every=0,
      checkpoint_every=100,
      keep=1,
    ),
    sample=SampleConfig(steps=64),
    evaluate=EvaluateConfig(rows=512, draws=8, batch_size=32),
  )


def trained(config: Config, workdir: Path) -> tuple[Data, Any, Any, Any]:
  """(data, method, denoiser, averaged parameters) of a finished run."""
  is_old = (workdir / 'config.json').exists()
  data = launcher.run(config, str(workdir), resume=is_old, overwrite=False)
  method, denoiser = build(config, data.tokenizer)
  loaded = checkpoint.load(str(workdir))
  if loaded.step < config.train.steps:  # a signal; the loop said how to go on
    raise SystemExit(1)
  return data, method, denoiser, loaded.params


def run(name: str, corpus: str, seed: int, root: Path, text: str) -> dict:
  """One line of the results."""
  config = config_of(name, corpus, seed, text)
  workdir = root / f'{corpus}-{name}-{seed}'
  data, method, denoiser, params = trained(config, workdir)
  mesh = make_mesh(config.mesh)
  bound = evaluator(config, data, method, denoiser, mesh)(params)
  canvas = blank(SAMPLES, config.data.length)
  made = fill(
    method, denoiser, params, data.tokenizer, canvas, config.sample, seed
  )
  judge_run = config_of(JUDGE, corpus, 100, text)
  judge = trained(judge_run, root / f'{corpus}-{JUDGE}')
  ids = np.asarray(made.samples.ids)
  last = [row for row in read(workdir / 'metrics.jsonl') if 'loss' in row][-1]
  kept = ('bits_per_byte', 'bits_per_byte_se', 'bits_per_token', 'terms')
  return {
    'method': name,
    'corpus': corpus,
    'seed': seed,
    **{key: bound[key] for key in kept},
    'monte_carlo_se': bound['monte_carlo_se'],
    **report(judged(judge[1], judge[2], judge[3], ids), ids),
    'network_calls': int(made.samples.calls),
    'train_seconds': last['seconds'],
    'train_tokens': STEPS * config.data.batch_size * config.data.length,
    'sample': made.texts[0],
    'protocol': bound['protocol'],
    **common.facts(),
  }


def table(lines: list[dict[str, Any]]) -> str:
  """Mean over seeds, in Markdown; the error is the larger of that over seeds
  and that over rows, which all seeds share."""
  out = []
  for corpus in sorted({line['corpus'] for line in lines}):
    here = [line for line in lines if line['corpus'] == corpus]
    out += [
      f'\n## {corpus}\n',
      '| method | bits per byte (bound) | generative perplexity | entropy | '
      'calls | training s | million tokens | seeds |',
      '|---|---|---|---|---|---|---|---|',
    ]
    groups = {
      name: [line for line in here if line['method'] == name]
      for name in METHODS
    }
    mean = lambda rows, key: float(np.mean([row[key] for row in rows]))
    for name, rows in sorted(
      ((n, r) for n, r in groups.items() if r),
      key=lambda item: mean(item[1], 'bits_per_byte'),
    ):
      values = [row['bits_per_byte'] for row in rows]
      error = max(
        mean(rows, 'bits_per_byte_se'),
        float(np.std(values, ddof=1) / len(rows) ** 0.5) if rows[1:] else 0.0,
      )
      out.append(
        f'| {name} | {np.mean(values):.3f} ± {error:.3f} '
        f'| {mean(rows, "generative_perplexity"):.1f} '
        f'| {mean(rows, "entropy"):.2f} | {rows[0]["network_calls"]} '
        f'| {mean(rows, "train_seconds"):.0f} '
        f'| {mean(rows, "train_tokens") / 1e6:.2f} | {len(rows)} |'
      )
  return '\n'.join(out) + '\n'


def finished(results: Path) -> list[dict[str, Any]]:
  if not results.exists():
    return []
  return [json.loads(line) for line in results.read_text().splitlines()]


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.discrete_methods')
  parser.add_argument('--workdir', type=expand, required=True)
  parser.add_argument('--corpus', choices=('python_docs', 'text8'))
  parser.add_argument('--dump', type=expand, help='MediaWiki .xml.bz2 of text8')
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--results', type=expand, default=RESULTS)
  asked = parser.parse_args()
  corpus = asked.corpus or 'python_docs'
  if corpus == 'text8' and not asked.dump:
    parser.error('--corpus=text8 needs --dump=FILE.xml.bz2')
  text = ''
  if asked.dump:
    text = str(text8.prepare(asked.dump, asked.workdir / 'text8.txt'))
  for seed in map(int, asked.seeds.split(',')):
    for name in asked.methods.split(','):
      done = {
        (r['method'], r['corpus'], r['seed']) for r in finished(asked.results)
      }
      if (name, corpus, seed) in done:
        continue
      print(f'--- {name}, {corpus}, seed {seed}')
      line = run(name, corpus, seed, asked.workdir, text)
      with asked.results.open('a') as file:
        file.write(json.dumps(line) + '\n')
      jax.clear_caches()
      page = asked.results.with_suffix('.table.md')
      page.write_text(table(finished(asked.results)))


if __name__ == '__main__':
  main()
