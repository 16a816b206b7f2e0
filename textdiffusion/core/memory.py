"""Memory limits, and a one-line error if a program needs more.

On a CPU the operating system grants more memory than it has, and kills the
process when the memory is used. So the required memory is compared with the
limit before the work starts.
"""

import contextlib
import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path

import jax

from textdiffusion.core.types import PyTree, UserError

# Files with the memory limit of Linux control groups, versions 2 and 1.
_GROUPS = (
  '/sys/fs/cgroup/memory.max',
  '/sys/fs/cgroup/memory/memory.limit_in_bytes',
)


# Numbers of options of glibc's mallopt.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT = 2**30  # bytes


def keep_freed_memory() -> bool:
  """Lets freed memory stay with the process, up to 1 GiB; for launchers.

  On CPU, XLA allocates its buffers anew in each call. By default glibc gives
  large blocks back to the system at once, and each step pays for the same pages
  again. The option is one of the whole process, so no library code sets it.

  Returns:
    Whether the C library has taken it; others than glibc do not have it.
  """
  with contextlib.suppress(OSError, AttributeError):
    mallopt = ctypes.CDLL(None).mallopt
    options = (_MMAP_THRESHOLD, _KEPT), (_TRIM_THRESHOLD, _KEPT)
    return all([mallopt(*option) for option in (*options, (_TOP_PAD, 2**26))])
  return False


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
    # CPU devices are threads of one host and share its memory.
    return host_memory() // jax.local_device_count()
  statistics = device.memory_stats() or {}
  return statistics.get('bytes_limit') or host_memory()


def check_memory(needed: float, subject: str, mend: str) -> None:
  """Checks that a device has enough memory.

  Args:
    needed: required bytes on one device.
    subject: the work that needs them, such as 'sampling', for the message.
    mend: what the user can do, the end of the message.

  Raises:
    UserError: the device has less memory.
  """
  limit = device_memory()
  if needed > limit:
    raise UserError(
      f'{subject} needs {needed / 2**30:,.1f} GiB of memory and a device has '
      f'{limit / 2**30:,.1f} GiB: {mend}'
    )


def check_attention(rows: int, length: int) -> None:
  """Raises UserError if the attention scores of one head exceed a CPU's memory.

  CPU kernels allocate the scores at run time, so the compiler does not count
  them. On other devices the compiler counts all memory, or the kernels hold no
  scores.

  Args:
    rows: sequences in a batch.
    length: tokens in a sequence.
  """
  if jax.default_backend() == 'cpu':
    subject = f'attention over {rows} row(s) of {length} tokens'
    check_memory(4 * rows * length**2, subject, 'lower num or length')


def compile_within(
  fn: Callable[..., PyTree], *args: PyTree, subject: str, mend: str
) -> jax.stages.Compiled:
  """Compiles a function and checks that it fits in memory.

  Args:
    fn: function to compile.
    *args: its arguments.
    subject: the work, for the message.
    mend: what the user can do, the end of the message.

  Returns:
    The compiled function.

  Raises:
    UserError: it needs more memory than a device has.
  """
  compiled = jax.jit(fn).lower(*args).compile()
  try:
    sizes = compiled.memory_analysis()
  except jax.errors.JaxRuntimeError:
    # Some backends have no memory analysis.
    return compiled
  if sizes is not None:
    needed = sizes.temp_size_in_bytes + sizes.output_size_in_bytes
    check_memory(needed + sizes.argument_size_in_bytes, subject, mend)
  return compiled


def is_exhausted(error: BaseException) -> bool:
  """Returns whether an error means that memory ran out."""
  if isinstance(error, MemoryError):
    return True
  words = ('RESOURCE_EXHAUSTED', 'Out of memory', 'bad_alloc')
  is_jax = isinstance(error, jax.errors.JaxRuntimeError)
  return is_jax and any(word in str(error) for word in words)
