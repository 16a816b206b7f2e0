"""Compares every discrete method at equal compute, with the same network.

  python -m benchmarks.discrete_methods --workdir=runs/discrete
  python -m benchmarks.discrete_methods --workdir=runs/discrete \
    --corpus=enwiki27 --dump=enwiki.xml.bz2 --seeds=0

Each run trains, evaluates the held-out bound, samples, and adds a line to the
results. Finished runs are skipped and an interrupted one resumes, so the
command may be repeated until all runs are finished. The table next to the
results is written again after each run.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import common, runs, wikipedia
from textdiffusion.config import Config
from textdiffusion.core.keys import stream
from textdiffusion.core.paths import expand
from textdiffusion.data.pipeline import Data, DataConfig
from textdiffusion.data.tokenizers import TokenizerConfig
from textdiffusion.evals.likelihood import EvaluateConfig
from textdiffusion.evals.quality import judged, judging, report
from textdiffusion.evals.statistics import (
  Combined,
  combine_seeds,
  compare_seeds,
)
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
from textdiffusion.model import Trained, bind
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.samplers.base import Samples, generate
from textdiffusion.samplers.prompts import blank
from textdiffusion.schedules.betas import CosineBetas
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig

RESULTS = Path(__file__).parent / 'results' / 'discrete_methods.jsonl'
STEPS, BATCH_TOKENS, SAMPLES = 400, 2048, 64
KEPT = (  # Keys of the report of a bound that are kept in a line.
  'bits_per_byte',
  'bits_per_byte_se',
  'bits_per_byte_monte_carlo_se',
  'bits_per_token',
  'nats_per_token',
  'terms',
  'documents',
  'rows',
  'heldout_rows',
)
JUDGE = 'judge'  # An autoregressive model that is trained four times as long.


class Entry(NamedTuple):
  """A method of the table.

  Attributes:
    method: the config of the method.
    cost: cost of a step relative to MDLM's. The batch is divided by it, so that
      all methods use the same compute.
  """

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
  # Without the hybrid term; in continuous time these are MDLM and UDLM.
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
  """Returns the config of a run; only method, corpus and seed differ.

  Args:
    name: a name in METHODS, or JUDGE.
    corpus: `python_docs` or `enwiki27`.
    seed: seed of data order, parameters and noise.
    text: path of the text of `enwiki27`.
  """
  entry = METHODS['autoregressive' if name == JUDGE else name]
  data = {
    'python_docs': DataConfig(
      source='python_docs',
      tokenizer=TokenizerConfig('sentencepiece', vocab_size=1024),
      length=64,
    ),
    'enwiki27': DataConfig(
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
    # Every network receives the time, the autoregressive one always 0.
    model=TransformerConfig(
      num_layers=4,
      d_model=192,
      num_heads=6,
      time='adaln',
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
    evaluate=EvaluateConfig(rows=512, draws=8, batch_size=32),
  )


def run(name: str, corpus: str, seed: int, root: Path, text: str) -> dict:
  """Trains, evaluates and samples; returns a line of the results.

  Args:
    name: a name in METHODS.
    corpus: `python_docs` or `enwiki27`.
    seed: seed of data order, parameters and noise.
    root: folder of the workdirs.
    text: path of the text of `enwiki27`.
  """
  config = config_of(name, corpus, seed, text)
  workdir = root / f'{corpus}-{name}-{seed}'
  trained = runs.train(config, workdir)
  data = trained.data
  bound = runs.held_out(trained, config.evaluate)
  canvas = blank(SAMPLES, config.data.length)
  key, method = stream(jax.random.key(seed), 'sample'), trained.method

  @jax.jit
  def sample(learnt: Trained) -> Samples:
    model = bind(method, trained.network, learnt)
    return generate(model, canvas, key, method.sampler)

  samples = jax.device_get(sample(trained.trained))
  judge_run = config_of(JUDGE, corpus, 100, text)
  judge = runs.train(judge_run, root / f'{corpus}-{JUDGE}')
  ids = samples.ids
  real, documents = real_rows(config, data)
  score = lambda ids: judged(judging(*judge.model[:2]), judge.model[2], ids)
  steps = judge_run.train.steps
  return {
    'method': name,
    'corpus': corpus,
    'seed': seed,
    **{key: bound[key] for key in KEPT},
    'baselines': bound['baselines'],
    **report(
      score(ids),
      ids,
      f'autoregressive, {steps:,} steps, seed {judge_run.train.seed}',
      score(real),
      real,
      documents,
    ),
    'network_calls': int(samples.calls),
    'train_seconds': trained.seconds,
    'train_tokens': STEPS * config.data.batch_size * config.data.length,
    'sample': data.tokenizer.decode(ids[0]),
    'protocol': bound['protocol'],
    **common.facts(),
  }


def real_rows(config: Config, data: Data) -> tuple[np.ndarray, np.ndarray]:
  """Returns (ids, documents) of full held-out rows, [SAMPLES, L] each."""
  settings = dataclasses.replace(config.evaluation, rows=2 * SAMPLES)
  batches = list(settings.batches(data.heldout))
  ids, documents, segments = (
    np.concatenate([batch[name] for batch in batches])
    for name in ('ids', 'documents', 'segments')
  )
  full = np.flatnonzero((segments > 0).all(-1))[:SAMPLES]
  return ids[full], documents[full]


def errors(rows: list[dict[str, Any]]) -> Combined:
  """Combines the bound of a method over its seeds, see `combine_seeds`.

  Older lines lack the number of held-out rows: there all seeds were evaluated
  on the same 512 rows and draws.
  """
  first = rows[0]
  share = min(1.0, first['rows'] / first.get('heldout_rows', first['rows']))
  names = ('bits_per_byte', 'bits_per_byte_se', 'bits_per_byte_monte_carlo_se')
  values, row_ses, draw_ses = (
    [row[key] or 0.0 for row in rows] for key in names
  )
  documents = min(row['documents'] for row in rows)
  return combine_seeds(values, row_ses, draw_ses, documents, share)


def compared(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
  """Formats bits per byte of `rows` minus those of `others` at equal seeds.

  It is followed by the half-width of the interval, and bold if the interval
  excludes 0.
  """
  by_seed = lambda lines: {row['seed']: row['bits_per_byte'] for row in lines}
  ours, theirs = by_seed(rows), by_seed(others)
  seeds = sorted(set(ours) & set(theirs))
  if len(seeds) < 2 or ours == theirs:
    return ''
  gap = compare_seeds([ours[s] for s in seeds], [theirs[s] for s in seeds])
  text = f'{gap.mean:+.3f} ± {gap.high - gap.mean:.3f}'
  return f'**{text}**' if gap.is_significant else text


def table(lines: list[dict[str, Any]]) -> str:
  """Returns a Markdown table with one line per method, best bound first.

  Bounds have a 95 % interval (Student's t over seeds), and the standard errors
  over seeds, documents and draws separately. A unigram and a bigram of the same
  tokens are listed among the methods.
  """
  out = []
  for corpus in sorted({line['corpus'] for line in lines}):
    here = [{**FORMER, **line} for line in lines if line['corpus'] == corpus]
    groups = {
      name: [line for line in here if line['method'] == name]
      for name in METHODS
    }
    masked = groups['mdlm']
    entries = []
    for name, rows in groups.items():
      if rows:
        entries.append((errors(rows).mean, table_row(name, rows, masked)))
    entries += baseline_rows(here)
    out += [f'\n## {corpus}\n', *judge_note(here), HEADER]
    out += [text for _, text in sorted(entries)]
  return '\n'.join(out) + '\n'


HEADER = (
  '| method | bits per byte (bound), 95 % | error over seeds | documents '
  '| draws | minus MDLM, 95 % | generative perplexity | entropy | calls '
  '| training s | million tokens | seeds |\n' + '|---' * 12 + '|'
)
# Values of older lines, in which all seeds were evaluated on the same rows.
FORMER = {'bits_per_byte_monte_carlo_se': None, 'documents': 512, 'rows': 512}


def table_row(
  name: str, rows: list[dict[str, Any]], masked: list[dict[str, Any]]
) -> str:
  """Formats the line of a method, with its difference from MDLM."""
  mean = lambda key: float(np.mean([row[key] for row in rows]))
  bound = errors(rows)
  half = '' if bound.high != bound.high else f' ± {bound.high - bound.mean:.3f}'
  seed_error = '' if bound.seeds < 2 else f'{bound.seed_se:.3f}'
  draw_error = f'{bound.monte_carlo_se:.3f}' if bound.monte_carlo_se else ''
  error = float(np.mean([perplexity_error(row) for row in rows]))
  spread = f' ± {error:.1f}' if error else ''
  return (
    f'| {name} | {bound.mean:.3f}{half} | {seed_error} | {bound.row_se:.3f} '
    f'| {draw_error} | {compared(rows, masked)} '
    f'| {mean("generative_perplexity"):.1f}{spread} '
    f'| {mean("entropy"):.2f} | {rows[0]["network_calls"]} '
    f'| {mean("train_seconds"):.0f} '
    f'| {mean("train_tokens") / 1e6:.2f} | {len(rows)} |'
  )


def perplexity_error(row: dict[str, Any]) -> float:
  """Returns the standard error of a line's generative perplexity.

  It is over samples, and 0 if the line has none. Older lines have it in nats.
  """
  nats = row.get('generative_nats_per_token_se', 0.0)
  given = row.get('generative_perplexity_se')
  return row['generative_perplexity'] * nats if given is None else given


def baseline_rows(lines: list[dict[str, Any]]) -> list[tuple[float, str]]:
  """Returns (bits per byte, line) of unigram and bigram, mean over seeds."""
  by_seed = {
    line['seed']: line['baselines'] for line in lines if 'baselines' in line
  }
  entries = []
  for name in ('unigram', 'bigram') if by_seed else ():
    bits, error = (
      float(np.mean([found[name][key] or 0.0 for found in by_seed.values()]))
      for key in ('bits_per_byte', 'bits_per_byte_se')
    )
    text = f'| *token {name}* | {bits:.3f} | | {error:.3f} |' + ' |' * 8
    entries.append((bits, text))
  return entries


def judge_note(lines: list[dict[str, Any]]) -> list[str]:
  """Describes the judge of generative perplexity and its score of real text."""
  found = [line for line in lines if 'judge' in line]
  if not found:
    return []
  mean = lambda key: float(np.mean([line[key] or 0.0 for line in found]))
  return [
    f'Judge: {found[0]["judge"]}. Real text: perplexity '
    f'{mean("real_perplexity"):.1f} ± {mean("real_perplexity_se"):.1f}, '
    f'entropy {mean("real_entropy"):.2f}.\n'
  ]


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.discrete_methods')
  parser.add_argument('--workdir', type=expand, required=True)
  parser.add_argument('--corpus', choices=('python_docs', 'enwiki27'))
  parser.add_argument(
    '--dump', type=expand, help='MediaWiki .xml.bz2 of enwiki27'
  )
  parser.add_argument('--methods', default=','.join(METHODS))
  parser.add_argument('--seeds', default='0,1,2')
  parser.add_argument('--results', type=expand, default=RESULTS)
  options = parser.parse_args()
  corpus = options.corpus or 'python_docs'
  if corpus == 'enwiki27' and not options.dump:
    parser.error('--corpus=enwiki27 needs --dump=FILE.xml.bz2')
  text = ''
  if options.dump:
    text = str(
      wikipedia.prepare(options.dump, options.workdir / 'enwiki27.txt')
    )
  for seed in map(int, options.seeds.split(',')):
    for name in options.methods.split(','):
      done = {
        (r['method'], r['corpus'], r['seed'])
        for r in runs.finished(options.results)
      }
      if (name, corpus, seed) in done:
        continue
      print(f'--- {name}, {corpus}, seed {seed}')
      line = run(name, corpus, seed, options.workdir, text)
      runs.append(options.results, line)
      jax.clear_caches()
      page = options.results.with_suffix('.table.md')
      page.write_text(table(runs.finished(options.results)))


if __name__ == '__main__':
  main()
