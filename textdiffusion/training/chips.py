"""Published figures of TPU chips, and TPU slices to compile programs for.

Any machine can compile for a slice; no TPU is needed.

Source: the page of each version and the table of TPU7x in the documentation of
Cloud TPU (2026). The network rate of v4 is that of six links of 50 GB/s.
"""

import contextlib
import dataclasses
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Generator

import jax
from jax.experimental import topologies

from textdiffusion.core.types import UserError

# These options make the SparseCores reduce-scatter sums over shards. By default
# the compiler of jax 0.10 all-reduces each sum, which sends twice the bytes,
# and then slices it.
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
  """Figures of one TPU chip.

  Attributes:
    flops: peak floating-point operations per second in bfloat16.
    memory: bytes of memory.
    memory_rate: bytes per second between the chip and its memory.
    network_rate: bytes per second that the chip receives over all its links.
    devices: JAX devices per chip.
    ring: an axis of a slice whose length in chips is a multiple of this is
      closed to a ring.
    options: compiler options, (name, value) pairs.
  """

  flops: float
  memory: float
  memory_rate: float
  network_rate: float
  devices: int = 1
  ring: int = 4
  options: tuple[tuple[str, bool], ...] = ()


_GIB = 2.0**30
_OFFLOAD = tuple(_SCATTER.items())
CHIPS = {
  'v4': Chip(275e12, 32 * _GIB, 1228e9, 300e9),
  'v5e': Chip(197e12, 16 * _GIB, 819e9, 200e9, ring=16),
  'v5p': Chip(459e12, 95 * _GIB, 2765e9, 600e9, options=_OFFLOAD),
  'v6e': Chip(918e12, 32 * _GIB, 1638e9, 400e9, ring=16, options=_OFFLOAD),
  'tpu7x': Chip(2307e12, 192 * _GIB, 7380e9, 600e9, devices=2),
}
# Keys are the values of `device_kind`.
_KINDS = {
  'TPU v4': 'v4',
  'TPU v5 lite': 'v5e',
  'TPU v5': 'v5p',
  'TPU v5p': 'v5p',
  'TPU v6 lite': 'v6e',
  'TPU7x': 'tpu7x',
}


def compiler_options(device: jax.Device) -> dict[str, bool]:
  """Returns compiler options of the training step; {} if it is not a TPU."""
  name = _KINDS.get(getattr(device, 'device_kind', ''))
  return dict(CHIPS[name].options) if name else {}


def tpu_slice(topology: str) -> tuple[Chip, list[jax.Device]]:
  """Returns the chip and the devices of a slice such as `v5p:8x8x8`.

  The slice need not exist: its devices serve as targets of the compiler.

  An axis of a slice is a ring if its length is a multiple of 4 chips (16 on v5e
  and v6e). The compiler has to be given this: by default it assumes that no
  axis is a ring, and gathers by summing arrays padded with zeros.

  Raises:
    UserError: `topology` is not a slice, or the TPU compiler is not installed.
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
  # Otherwise libtpu queries the metadata server of a cloud machine and waits.
  os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
  try:
    with compiler_messages():
      description = topologies.get_topology_desc(
        platform='tpu',
        topology_name=topology,
        wrap=(*wrap, *[False] * (3 - len(wrap))),
      )
  except (jax.errors.JaxRuntimeError, ValueError, TypeError) as error:
    why = ' '.join(str(error).split())[:200]
    raise UserError(f'--topology={topology}: {why}') from None
  return chip, list(description.devices)


@contextlib.contextmanager
def compiler_messages() -> Generator[Callable[[], str], None, None]:
  """Captures what the compiler writes to stderr within the `with` block.

  The compiler is native code, so the file descriptor itself is redirected. On
  an error the captured text is written to stderr after all.

  Yields:
    A function that returns the captured text once the block has ended.
  """
  sys.stderr.flush()
  original, captured = os.dup(2), []
  with tempfile.TemporaryFile() as file:
    os.dup2(file.fileno(), 2)
    is_done = False
    try:
      yield lambda: ''.join(captured)
      is_done = True
    finally:
      os.dup2(original, 2)
      os.close(original)
      file.seek(0)
      captured.append(file.read().decode(errors='replace'))
      if not is_done:  # The text may contain the reason of the error.
        sys.stderr.write(captured[0])
