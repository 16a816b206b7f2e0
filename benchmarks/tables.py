"""Writes tables and pictures of the experiments from their results.

  python -m benchmarks.tables known_law
  python -m benchmarks.tables enwiki27 --scale=gpu --results=FILE.jsonl

Writes NAME.table.md next to the results, and pictures to notes/assets.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runs
from textdiffusion.core.paths import expand
from textdiffusion.evals.statistics import (
  Combined,
  combine_seeds,
  compare_seeds,
)

ASSETS = Path(__file__).parent.parent / 'notes' / 'assets'
Lines = list[dict[str, Any]]


def by_method(lines: Lines) -> dict[str, Lines]:
  """Groups lines by method, sorted by seed."""
  groups: dict[str, Lines] = {}
  for line in sorted(lines, key=lambda line: line['seed']):
    groups.setdefault(line['method'], []).append(line)
  return groups


def combined(
  rows: Lines, figure: Callable[[dict[str, Any]], float], unit: str
) -> Combined:
  """Combines a figure of the bound over seeds, with separate errors.

  Args:
    rows: lines of one method.
    figure: returns the figure of a line.
    unit: `bits_per_byte` or `nats_per_token`; the figure has its errors.
  """
  bounds = [row['bound'] for row in rows]
  draws = {
    'bits_per_byte': 'bits_per_byte_monte_carlo_se',
    'nats_per_token': 'monte_carlo_se',
  }[unit]
  return combine_seeds(
    [figure(row) for row in rows],
    [bound[f'{unit}_se'] or 0.0 for bound in bounds],
    [bound[draws] or 0.0 for bound in bounds],
    min(bound['documents'] for bound in bounds),
    min(bounds[0]['rows'] / bounds[0]['heldout_rows'], 1.0),
  )


def interval(found: Combined) -> str:
  """Formats the mean and the half-width of the 95% interval."""
  half = found.high - found.mean
  return f'{found.mean:.3f}' + (f' ± {half:.3f}' if half == half else '')


def difference(
  rows: Lines, others: Lines, figure: Callable[[dict[str, Any]], float]
) -> str:
  """Formats `rows` minus `others` at equal seeds, bold if significant.

  Args:
    rows: lines of one method.
    others: lines of another method.
    figure: returns the figure of a line.
  """
  ours, theirs = (
    {row['seed']: figure(row) for row in lines} for lines in (rows, others)
  )
  seeds = sorted(set(ours) & set(theirs))
  if len(seeds) < 2 or ours == theirs:
    return ''
  gap = compare_seeds([ours[s] for s in seeds], [theirs[s] for s in seeds])
  text = f'{gap.mean:+.3f} ± {gap.high - gap.mean:.3f}'
  return f'**{text}**' if gap.is_significant else text


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
  """Returns a Markdown table."""
  lines = [header, ['---'] * len(header), *rows]
  return ''.join(
    '| ' + ' | '.join(str(cell) for cell in line) + ' |\n' for line in lines
  )


def mean(rows: Lines, *path: str) -> float:
  """Returns the mean over lines of a number at a path of keys.

  It is NaN if the number is missing in a line.
  """
  values = []
  for row in rows:
    value: Any = row
    for key in path:
      value = value[key]
    values.append(np.nan if value is None else value)
  return float(np.mean(values))


def bound_errors(found: Combined) -> list[str]:
  """Formats the standard errors over seeds, documents and draws."""
  parts = (found.seed_se, found.row_se, found.monte_carlo_se)
  return ['' if part != part else f'{part:.4f}' for part in parts]


def baseline_rows(lines: Lines, unit: str, width: int) -> list[list[str]]:
  """Returns rows of `width` cells for unigram and bigram of the same tokens."""
  rows = []
  for name in ('unigram', 'bigram'):
    value = mean(lines, 'bound', 'baselines', name, unit)
    rows.append([f'*token {name}*', f'{value:.3f}', *[''] * (width - 2)])
  return rows


def enwiki27(lines: Lines) -> str:
  """Returns a table of bits per character with baselines and differences."""
  groups = by_method(lines)
  figure = lambda row: row['bound']['bits_per_byte']
  header = (
    'method',
    'bits per character, 95 %',
    'error over seeds',
    'articles',
    'draws',
    'minus MDLM, 95 %',
    'minus UDLM, 95 %',
    'learning rate',
    'training loss',
    'training s',
    'seeds',
  )
  rows = []
  for name, own in groups.items():
    found = combined(own, figure, 'bits_per_byte')
    rows.append(
      [
        name,
        interval(found),
        *bound_errors(found),
        difference(own, groups.get('mdlm', []), figure),
        difference(own, groups.get('udlm', []), figure),
        f'{own[0]["peak_lr"]:g}',
        f'{mean(own, "loss"):.3f}',
        f'{mean(own, "train_seconds"):.0f}',
        str(len(own)),
      ]
    )
  rows += baseline_rows(lines, 'bits_per_byte', len(header))
  rows.sort(key=lambda row: float(row[1].split()[0]))
  return markdown(header, rows)


def known_law(lines: Lines) -> str:
  """Returns tables of gaps to the true value, and of samples by steps."""
  groups = by_method(lines)
  figure = lambda row: row['bound']['gap_nats_per_token']
  header = (
    'method',
    'gap, nats per token, 95 %',
    'error over seeds',
    'sentences',
    'draws',
    'gap per sentence',
    'minus MDLM, 95 %',
    'bound at 1/4, 1/2, 3/4 minus the end',
    'learning rate',
    'seeds',
  )
  rows = []
  for name, own in groups.items():
    found = combined(own, figure, 'nats_per_token')
    # All evaluations during training use the same sentences and draws.
    middle = [
      np.mean([row['curve'][i][1] - row['curve'][-1][1] for row in own])
      for i in range(3)
    ]
    rows.append(
      [
        name,
        interval(found),
        *bound_errors(found),
        f'{mean(own, "gap_nats_per_sentence"):.2f}',
        difference(own, groups.get('mdlm', []), figure),
        ', '.join(f'{value:+.3f}' for value in middle),
        f'{own[0]["peak_lr"]:g}',
        str(len(own)),
      ]
    )
  truth = mean(lines, 'bound', 'true_nats_per_token')
  for row in baseline_rows(lines, 'nats_per_token', len(header)):
    row[1] = f'{float(row[1]) - truth:.3f}'
    rows.append(row)
  rows.sort(key=lambda row: float(row[1].split()[0]))
  return markdown(header, rows) + '\n' + sample_table(lines)


def sample_table(lines: Lines) -> str:
  """Returns a table of validity and -log p by sampler and steps.

  The figures are means over seeds.
  """
  header = ('method', 'sampler', 'steps', 'invalid, %', '-log p', 'distinct, %')
  rows: list[list[str]] = []
  for name, own in by_method(lines).items():
    for i, first in enumerate(own[0]['samples']):
      parts = [row['samples'][i] for row in own]
      share = [mean(parts, key) for key in ('valid', 'distinct')]
      error = mean(parts, 'valid_se') / len(parts) ** 0.5
      nats = mean(parts, 'nats')
      nats_se = mean(parts, 'nats_se') / len(parts) ** 0.5
      rows.append(
        [
          name,
          first['sampler'],
          first['steps'],
          f'{100 * (1 - share[0]):.1f} ± {100 * error:.1f}',
          '' if nats != nats else f'{nats:.2f} ± {nats_se:.2f}',
          f'{100 * share[1]:.0f}',
        ]
      )
  real = [line['heldout_under_the_law'] for line in lines]
  rows.append(
    [
      '*held-out text*',
      '',
      '',
      f'{100 * (1 - mean(real, "valid")):.1f}',
      f'{mean(real, "nats"):.2f} ± {mean(real, "nats_se"):.2f}',
      f'{100 * mean(real, "distinct"):.0f}',
    ]
  )
  return markdown(header, rows)


def toy_pairs(lines: Lines) -> str:
  """Returns a table of exact matches with an interval over seeds."""
  header = (
    'method',
    'exact matches, %, 95 %',
    'each seed',
    'binomial error',
    'bound, nats per token',
    'learning rate',
    'training s',
    'seeds',
  )
  rows = []
  for name, own in by_method(lines).items():
    shares = [100 * row['exact'] for row in own]
    found = combine_seeds(shares, [0.0] * len(own), [0.0] * len(own), 2, 0.0)
    half = found.high - found.mean
    is_known = len(own) > 1 and half == half
    rows.append(
      [
        name,
        f'{found.mean:.1f}' + (f' ± {half:.1f}' if is_known else ''),
        ', '.join(f'{share:.1f}' for share in shares),
        f'{100 * mean(own, "exact_se"):.1f}',
        f'{mean(own, "bound", "nats_per_token"):.2f}',
        f'{own[0]["peak_lr"]:g}',
        f'{mean(own, "train_seconds"):.0f}',
        str(len(own)),
      ]
    )
  rows.sort(key=lambda row: -float(row[1].split()[0]))
  return markdown(header, rows)


def steps_picture(lines: Lines, path: Path) -> None:
  """Plots the share of invalid samples by steps, for methods with sweeps."""
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot

  groups = by_method(lines)
  chosen = [name for name in ('mdlm', 'udlm') if name in groups]
  if not chosen:
    return
  figure, panels = pyplot.subplots(
    1, len(chosen), figsize=(5 * len(chosen), 3.4), sharey=True, squeeze=False
  )
  for axes, name in zip(panels[0], chosen):
    curves: dict[str, list[tuple[int, float]]] = {}
    for i, first in enumerate(groups[name][0]['samples']):
      parts = [row['samples'][i] for row in groups[name]]
      point = first['steps'], 100 * (1 - mean(parts, 'valid'))
      curves.setdefault(first['sampler'], []).append(point)
    for sampler, points in curves.items():
      axes.plot(*zip(*points), 'o-', label=sampler)
    axes.set(title=name, xlabel='steps', xscale='log', ylim=(0, None))
    axes.set_xticks((4, 16, 64, 256), labels=('4', '16', '64', '256'))
    axes.minorticks_off()
    axes.legend(frameon=False)
    axes.spines[['top', 'right']].set_visible(False)
  panels[0][0].set_ylabel('invalid sentences, %')
  figure.savefig(path, dpi=150, bbox_inches='tight')


TABLES: dict[str, Callable[[Lines], str]] = {
  'known_law': known_law,
  'enwiki27': enwiki27,
  'toy_pairs': toy_pairs,
}


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.tables')
  parser.add_argument('experiment', choices=TABLES)
  parser.add_argument('--scale', choices=runs.SCALES, default='gpu')
  parser.add_argument('--results', type=expand)
  parser.add_argument('--picture', type=expand, help='of known_law, a file')
  options = parser.parse_args(argv)
  name = options.experiment
  results = options.results or runs.RESULTS / f'{name}.jsonl'
  lines = [
    line for line in runs.finished(results) if line['scale'] == options.scale
  ]
  if not lines:
    parser.error(f'{results} has no line of --scale={options.scale}')
  text = TABLES[name](lines)
  results.with_suffix('.table.md').write_text(text)
  print(text)
  if name == 'known_law':
    steps_picture(lines, options.picture or ASSETS / 'known_law_steps.png')


if __name__ == '__main__':
  main()
