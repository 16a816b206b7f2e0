"""What a compilation ahead of time tells, as lines and as a table."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def _mesh(told: dict[str, Any]) -> str:
  return ' '.join(f'{k}={n}' for k, n in told['mesh'].items() if n > 1) or '1'


def show(told: dict[str, Any]) -> None:
  """One report, as lines."""
  say = Console(highlight=False, soft_wrap=True).print
  say(
    f'{told["parameters"] / 1e9:.2f} billion parameters on {told["chips"]} '
    f'chips ({_mesh(told)}), {told["rows"]} rows of {told["length"]}'
  )
  if told['bytes_per_chip'] is None:
    return
  gib = lambda size: f'{size / 2**30:.2f}'
  parts = told['bytes_by_kind'].items()
  say(
    f'memory a chip: {gib(told["bytes_per_chip"])} of '
    f'{gib(told["chip_bytes"])} GiB ('
    + ', '.join(f'{name} {gib(size)}' for name, size in parts)
    + ')'
  )
  say(f'arithmetic a chip: {told["flops_per_chip"] / 1e12:.1f} TFLOP')
  kinds = told['collective_bytes_by_kind'].items()
  say(
    f'reaching a chip: {told["collective_bytes"] / 1e9:.2f} GB, meant '
    f'{told["collective_bytes_meant"] / 1e9:.2f} ('
    + ', '.join(f'{kind} {size / 1e9:.2f}' for kind, size in kinds)
    + ')'
  )
  seconds = ', '.join(f'{k} {s:.3f} s' for k, s in told['seconds'].items())
  say(f'at published peaks: {seconds}')
  say(
    f'a step: {told["predicted_step_s"]:.3f} s, bound by {told["bound_by"]}, '
    f'{told["predicted_mfu"]:.2f} of the peak, if all of it overlaps; '
    f'{told["serial_step_s"]:.3f} s, {told["serial_mfu"]:.2f}, if nothing does'
  )
  for warning in told['warnings']:
    say(f'warning: {warning}', style='yellow', markup=False)


def table(rows: Sequence[dict[str, Any]]) -> None:
  """Many reports, the fastest first."""
  made = Table('mesh', 'rows', 'GiB a chip', 'GB sent', 'bound by', 'step s')
  made.add_column('MFU')
  made.add_column('tokens/s a chip')
  for told in rows:
    start = _mesh(told), str(told['rows'])
    if not told['fits']:
      made.add_row(*start, told['reason'])
      continue
    made.add_row(
      *start,
      f'{told["bytes_per_chip"] / 2**30:.1f}',
      f'{told["collective_bytes"] / 1e9:.1f}',
      told['bound_by'],
      f'{told["predicted_step_s"]:.3f}',
      f'{told["predicted_mfu"]:.2f}',
      f'{told["tokens_per_s_per_chip"]:,.0f}',
    )
  Console().print(made)
