"""Prints reports of compiled steps, as lines or as a table."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def _mesh(report: dict[str, Any]) -> str:
  """Formats the axes of a mesh that are longer than 1."""
  return ' '.join(f'{k}={n}' for k, n in report['mesh'].items() if n > 1) or '1'


def print_report(report: dict[str, Any]) -> None:
  """Prints one report as lines."""
  write = Console(highlight=False, soft_wrap=True).print
  write(
    f'{report["parameters"] / 1e9:.2f} billion parameters on {report["chips"]} '
    f'chips ({_mesh(report)}), {report["rows"]} rows of {report["length"]}'
  )
  if report['bytes_per_chip'] is None:
    return
  gib = lambda size: f'{size / 2**30:.2f}'
  parts = report['bytes_by_kind'].items()
  write(
    f'memory per chip: {gib(report["bytes_per_chip"])} of '
    f'{gib(report["chip_bytes"])} GiB ('
    + ', '.join(f'{name} {gib(size)}' for name, size in parts)
    + ')'
  )
  write(f'arithmetic per chip: {report["flops_per_chip"] / 1e12:.1f} TFLOP')
  kinds = report['collective_bytes_by_kind'].items()
  write(
    f'received per chip: {report["collective_bytes"] / 1e9:.2f} GB, expected '
    f'{report["collective_bytes_expected"] / 1e9:.2f} ('
    + ', '.join(f'{kind} {size / 1e9:.2f}' for kind, size in kinds)
    + ')'
  )
  seconds = ', '.join(f'{k} {s:.3f} s' for k, s in report['seconds'].items())
  write(f'at published peaks: {seconds}')
  write(
    f'step time: {report["predicted_step_s"]:.3f} s, '
    f'bound by {report["bound_by"]}, '
    f'{report["predicted_mfu"]:.2f} of the peak, if all of it overlaps; '
    f'{report["serial_step_s"]:.3f} s, {report["serial_mfu"]:.2f}, '
    'if nothing does'
  )
  for warning in report['warnings']:
    write(f'warning: {warning}', style='yellow', markup=False)


def print_table(rows: Sequence[dict[str, Any]]) -> None:
  """Prints many reports as a table, in the given order."""
  table = Table('mesh', 'rows', 'GiB per chip', 'GB sent', 'bound by', 'step s')
  table.add_column('MFU')
  table.add_column('tokens/s per chip')
  for report in rows:
    start = _mesh(report), str(report['rows'])
    if not report['fits']:
      table.add_row(*start, report['reason'])
      continue
    table.add_row(
      *start,
      f'{report["bytes_per_chip"] / 2**30:.1f}',
      f'{report["collective_bytes"] / 1e9:.1f}',
      report['bound_by'],
      f'{report["predicted_step_s"]:.3f}',
      f'{report["predicted_mfu"]:.2f}',
      f'{report["tokens_per_s_per_chip"]:,.0f}',
    )
  Console().print(table)
