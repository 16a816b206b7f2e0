"""For `launch.compile`: a config and a slice to a report, and its look."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError, Vocab
from textdiffusion.nn.transformer import num_params
from textdiffusion.training import ahead
from textdiffusion.training.chips import Chip
from textdiffusion.training.mesh import MeshConfig, check_batch, make_mesh

_SIZES = {'bytes': 256, 'characters': 27}


class _Tokenizer:
  """Stands for one of a size: no file of it is needed."""

  def __init__(self, size: int):
    self.vocab = Vocab(size + 4, size + 3, size, size + 1, size + 2)


def tell(
  config: config_lib.Config, chip: Chip, devices: Sequence[Any], size: int
) -> dict[str, Any]:
  """What `ahead.report` tells, and of what; size: of the vocabulary, or 0."""
  tokenizer: Any = config.data.tokenizer
  size = size or tokenizer.vocab_size or _SIZES.get(tokenizer.kind, 0)
  if not size:
    raise UserError('--vocab_size is missing: the config does not tell it')
  mesh = make_mesh(config.mesh, devices)
  data, train = config.data, config.train
  check_batch(mesh, data.batch_size, train.accumulate)
  made: Any = _Tokenizer(size)
  method, denoiser = config_lib.build(config, made)
  whole = data.batch_size, data.length
  shapes = dict.fromkeys(('ids', 'segments', 'positions'), whole)
  if data.rows == 'joined':
    shapes['is_given'] = whole
  if data.rows == 'separate':
    read = data.batch_size, data.source_length
    shapes |= {'source': read, 'source_segments': read}
  count = num_params(denoiser)
  step = ahead.work(config.model, method.width, count, mesh, *whole)
  lower = lambda: ahead.lower_train(
    method, denoiser, train, mesh, {**shapes, 'rows': whole[:1]}
  )
  told = ahead.report(lower, chip, mesh, step)
  facts = {
    'parameters': count,
    'mesh': {name: mesh.shape[name] for name in mesh.axis_names},
    'rows': data.batch_size,
    'length': data.length,
  }
  if told['fits']:
    per_chip = data.batch_size * data.length / told['chips']
    facts['tokens_per_s_per_chip'] = per_chip / told['predicted_step_s']
  return {**facts, **told}


def changed(
  config: config_lib.Config, mesh: MeshConfig, rows: int
) -> config_lib.Config:
  """The same on another mesh, with another global batch."""
  data = dataclasses.replace(config.data, batch_size=rows)
  return dataclasses.replace(config, mesh=mesh, data=data)


def meshes(count: int) -> Iterator[MeshConfig]:
  """Worth trying on so many devices: all fsdp, or some tensor or data."""
  yield MeshConfig(data=1, fsdp=count)
  for other in (2, 4):
    if count % other == 0 and count > other:
      yield MeshConfig(data=1, fsdp=count // other, tensor=other)
      yield MeshConfig(data=other, fsdp=count // other)


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
      made.add_row(*start, told['reason'][:40])
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
