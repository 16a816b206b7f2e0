"""TPU chips: what their maker publishes of them, and slices of them that a
program can be compiled for on any machine.

Source: the pages of each version and the table of TPU7x in the documentation of
Cloud TPU (2026); of v4 the network is that of six links of 50 GB/s.
"""

import contextlib
import dataclasses
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Generator
from typing import Any

import jax
from jax.experimental import topologies

from textdiffusion.core.types import UserError

# Sums over shards are left scattered by the SparseCores; by default the
# compiler of jax 0.10 makes each sum whole on every chip, which is twice the
# bytes, and slices it.
_SCATTER = {
  f'xla_tpu_enable_sparse_core_{name}': True
  for name in (
    'collective_offload_reduce_scatter',
    'collective_offload_nd_reduce_scatter',
    'reduce_scatter_v2',
  )
}


@dataclasses.dataclass(frozen=True)
class Chip:
  """Of one chip: flops a second in bfloat16, bytes of memory, bytes a second to
  and from it, bytes a second that reach it over all of its links, devices that
  JAX sees of it, length from which an axis of a slice closes to a ring, and
  options of the compiler."""

  flops: float
  memory: float
  memory_rate: float
  network_rate: float
  devices: int = 1
  ring: int = 4
  options: tuple[tuple[str, Any], ...] = ()


_GIB = 2.0**30
_OFFLOAD = tuple(_SCATTER.items())
CHIPS = {
  'v4': Chip(275e12, 32 * _GIB, 1228e9, 300e9),
  'v5e': Chip(197e12, 16 * _GIB, 819e9, 200e9, ring=16),
  'v5p': Chip(459e12, 95 * _GIB, 2765e9, 600e9, options=_OFFLOAD),
  'v6e': Chip(918e12, 32 * _GIB, 1638e9, 400e9, ring=16, options=_OFFLOAD),
  'tpu7x': Chip(2307e12, 192 * _GIB, 7380e9, 600e9, devices=2),
}
# As `device_kind` names them.
_KINDS = {
  'TPU v4': 'v4',
  'TPU v5 lite': 'v5e',
  'TPU v5': 'v5p',
  'TPU v5p': 'v5p',
  'TPU v6 lite': 'v6e',
  'TPU7x': 'tpu7x',
}


def compiler_options(device: Any) -> dict[str, Any]:
  """Of the training step on a device; none for what is no TPU."""
  name = _KINDS.get(getattr(device, 'device_kind', ''))
  return dict(CHIPS[name].options) if name else {}


def slice_of(topology: str) -> tuple[Chip, list[Any]]:
  """`v5p:8x8x8` -> the chip and the devices of a slice, which need not exist:
  programs can be compiled for them.

  An axis of a slice is a ring where it is a multiple of 4 chips long, on v5e
  and v6e of 16. The compiler must know: by default it takes none to be a ring,
  and gathers by sums of zeros.

  Raises UserError for what is no slice, and without the compiler of TPUs.
  """
  name, _, shape = topology.partition(':')
  sizes = shape.split('x')
  if name not in CHIPS or not all(size.isdecimal() for size in sizes):
    raise UserError(
      f'--topology={topology}: must be one of {", ".join(CHIPS)} and a shape, '
      'such as v5p:8x8x8 or v6e:16x16'
    )
  chip = CHIPS[name]
  wrap = [int(size) % chip.ring == 0 for size in sizes]
  try:
    importlib.import_module('libtpu')
  except ImportError:
    raise UserError(
      'the compiler of TPUs is not installed: pip install -e .[tpu], on any '
      'Linux machine'
    ) from None
  # Else it asks the metadata server of a cloud machine, and waits for it.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  try:
    with compiler_messages():
      made = topologies.get_topology_desc(
        platform='tpu',
        topology_name=topology,
        wrap=(*wrap, *[False] * (3 - len(wrap))),
      )
  except (jax.errors.JaxRuntimeError, ValueError, TypeError) as error:
    why = ' '.join(str(error).split())[:200]
    raise UserError(f'--topology={topology}: {why}') from None
  return chip, list(made.devices)


@contextlib.contextmanager
def compiler_messages() -> Generator[Callable[[], str], None, None]:
  """What the compiler, which is no Python, writes to stderr meanwhile."""
  sys.stderr.flush()
  kept, words = os.dup(2), []
  with tempfile.TemporaryFile() as file:
    os.dup2(file.fileno(), 2)
    is_done = False
    try:
      yield lambda: ''.join(words)
      is_done = True
    finally:
      os.dup2(kept, 2)
      os.close(kept)
      file.seek(0)
      words.append(file.read().decode(errors='replace'))
      if not is_done:  # it may say why
        sys.stderr.write(words[0])
