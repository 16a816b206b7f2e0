"""How much memory there is, and one line where a program needs more.

A CPU's operating system promises memory that it does not have, and ends the
process when it is used: what is needed is compared before the work.
"""

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from textdiffusion.core.types import UserError

# Files of Linux control groups, versions 2 and 1.
_GROUPS = (
  '/sys/fs/cgroup/memory.max',
  '/sys/fs/cgroup/memory/memory.limit_in_bytes',
)


def host_memory() -> int:
  """Returns the bytes of memory that this process may use."""
  limits = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
  for path in _GROUPS:
    try:
      text = Path(path).read_text().strip()
    except OSError:
      continue
    if text.isdecimal():
      limits.append(int(text))
  soft, _ = resource.getrlimit(resource.RLIMIT_AS)
  if soft != resource.RLIM_INFINITY:
    limits.append(soft)
  return min(limits)


def device_memory() -> int:
  """Returns the bytes of memory of one device."""
  device = jax.local_devices()[0]
  if device.platform == 'cpu':
    # Devices that are threads of one host share its memory.
    return host_memory() // jax.local_device_count()
  statistics = device.memory_stats() or {}
  return statistics.get('bytes_limit') or host_memory()


def check_memory(needed: float, subject: str, mend: str) -> None:
  """Raises UserError where a device has less than `needed` bytes.

  Args:
    needed: bytes on one device.
    subject: what needs them, such as 'sampling', for the message.
    mend: what the user can do, the end of the message.
  """
  limit = device_memory()
  if needed > limit:
    raise UserError(
      f'{subject} needs {needed / 2**30:,.1f} GiB of memory and a device has '
      f'{limit / 2**30:,.1f} GiB: {mend}'
    )


def check_attention(rows: int, length: int) -> None:
  """Raises UserError where the scores of one head exceed a CPU's memory.

  Its kernels get their memory while they run, so that the compiler does not
  count it; those of other devices count all of it, or hold no scores.
  """
  if jax.default_backend() == 'cpu':
    subject = f'attention over {rows} row(s) of {length} tokens'
    check_memory(4 * rows * length**2, subject, 'lower --num or --length')


def compile_within(
  fn: Callable[..., Any], *args: Any, subject: str, mend: str
) -> Callable[..., Any]:
  """Compiles `fn` for `args`; raises UserError where it cannot fit."""
  compiled = jax.jit(fn).lower(*args).compile()
  try:
    sizes = compiled.memory_analysis()
  except jax.errors.JaxRuntimeError:  # some backends have no analysis
    return compiled
  if sizes is not None:
    needed = sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    check_memory(needed + sizes.argument_size_in_bytes, subject, mend)
  return compiled


def is_exhausted(error: BaseException) -> bool:
  """Whether an error says that memory ran out."""
  if isinstance(error, MemoryError):
    return True
  words = ('RESOURCE_EXHAUSTED', 'Out of memory', 'bad_alloc')
  is_jax = isinstance(error, jax.errors.JaxRuntimeError)
  return is_jax and any(word in str(error) for word in words)
