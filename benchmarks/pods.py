"""Compiles the recipes of real sizes for real TPU slices (`launch.compile`).

  python -m benchmarks.pods

Each line of the results is one slice, compiled in its own process; finished
ones are skipped. --table prints the results as Markdown.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import common
from textdiffusion.core.paths import expand
from textdiffusion.training.chips import CHIPS

RESULTS = Path(__file__).parent / 'results' / 'pods.jsonl'
# (config, slice, rows per device)
SLICES = (
  ('llada/c4_162m', 'v5e:2x2', 8),
  ('llada/c4_1650m', 'v5e:4x4', 1),
  ('llada/c4_8b', 'v5p:4x4x4', 2),
  ('llada/c4_8b', 'v5p:8x8x8', 2),
  ('llada/c4_8b', 'v6e:16x16', 1),
  ('llada/c4_8b', 'tpu7x:4x4x4', 1),
  ('autoregressive/c4_8b', 'v5p:4x4x4', 2),
  # Weak scaling: the same number of rows on every chip.
  ('llada/c4_8b', 'v5p:2x2x4', 2),
  ('llada/c4_8b', 'v5p:2x4x4', 2),
  ('llada/c4_8b', 'v5p:4x4x8', 2),
  ('llada/c4_8b', 'v5p:4x8x8', 2),
)


def devices(topology: str) -> int:
  """Returns the number of devices of a slice."""
  kind, _, shape = topology.partition(':')
  return CHIPS[kind].devices * math.prod(map(int, shape.split('x')))


def compiled(config: str, topology: str, rows: int) -> dict[str, Any]:
  """Compiles a config for a slice; returns a line of the results."""
  command = [
    *(sys.executable, '-m', 'launch.compile', '--json'),
    f'--config=configs/{config.replace("/", ".py:")}',
    f'--topology={topology}',
    f'--set=data.batch_size={rows * devices(topology)}',
  ]
  out = subprocess.run(command, capture_output=True, text=True)
  if out.returncode not in (0, 3):
    raise SystemExit(out.stderr)
  report = {'config': config, 'topology': topology, **json.loads(out.stdout)}
  return {**report, **common.facts()}


def table(rows: list[dict[str, Any]]) -> None:
  """Prints the results as a Markdown table."""
  print(
    '| config | slice | chips | rows | GiB a chip | GB sent / expected | '
    'compute, memory, network s | bound by | step s | MFU | '
    'if nothing overlaps |'
  )
  print('|' + '---|' * 11)
  for row in rows:
    start = (
      row['config'],
      row['topology'],
      row['chips'],
      row['rows'],
    )
    limit = row['chip_bytes'] / 2**30
    if not row['fits']:
      print('|', *start, row['reason'], sep=' | ')
      continue
    sent, expected = (
      row['collective_bytes'],
      row['collective_bytes_expected'],
    )
    cells = (
      *start,
      f'{row["bytes_per_chip"] / 2**30:.1f} of {limit:.0f}',
      f'{sent / 1e9:.2f} / {expected / 1e9:.2f}',
      ', '.join(f'{s:.3f}' for s in row['seconds'].values()),
      row['bound_by'],
      f'{row["predicted_step_s"]:.3f}',
      f'{row["predicted_mfu"]:.2f}',
      f'{row["serial_mfu"]:.2f}',
    )
    print('| ' + ' | '.join(map(str, cells)) + ' |')


def main() -> None:
  parser = argparse.ArgumentParser(prog='python -m benchmarks.pods')
  parser.add_argument('--results', type=expand, default=RESULTS)
  parser.add_argument('--table', action='store_true')
  options = parser.parse_args()
  read = lambda: [
    json.loads(line)
    for line in (
      options.results.read_text().splitlines()
      if options.results.exists()
      else []
    )
  ]
  if options.table:
    return table(read())
  for one in SLICES:
    if not any((r['config'], r['topology']) == one[:2] for r in read()):
      print(*one, flush=True)
      line = json.dumps(compiled(*one))
      with options.results.open('a') as file:
        file.write(line + '\n')


if __name__ == '__main__':
  main()
