"""Exit codes of launchers.

0: done. 1: a defect of this package. 2: a mistake of the user. 75
(EX_TEMPFAIL): an error that the same command with --resume may fix, such as a
lost host or a hang.

Two environment variables serve clusters that restart failed jobs.
TEXTDIFFUSION_STOPPED_CODE (0) is the code of a run that a signal ended after it
saved its state. TEXTDIFFUSION_TRIES (0: no limit) is how often a run may start
from the same checkpoint.
"""

import os
import sys

import jax

from textdiffusion.core.types import Interrupted, UserError


def stopped_code() -> int:
  """Returns the exit code of a run that a signal ended."""
  return _number('TEXTDIFFUSION_STOPPED_CODE')


def tries() -> int:
  """Returns how often a run may start from a checkpoint; 0 has no limit."""
  return _number('TEXTDIFFUSION_TRIES')


def exit_if_stopped(is_early: bool) -> None:
  """Exits if a run ended early and the code of such a run is not 0."""
  if is_early and stopped_code():
    sys.exit(stopped_code())


def exit_code(error: Exception) -> int:
  """Returns the exit code for an error.

  When one of several processes dies, the others get a JaxRuntimeError from a
  failed exchange, so such an error counts as a lost host.
  """
  if isinstance(error, UserError):
    return os.EX_TEMPFAIL if isinstance(error, Interrupted) else 2
  is_exchange = isinstance(error, jax.errors.JaxRuntimeError)
  is_own = 'RESOURCE_EXHAUSTED' in str(error) or 'INVALID_ARG' in str(error)
  return os.EX_TEMPFAIL if is_exchange and not is_own else 1


def _number(name: str) -> int:
  value = os.environ.get(name, '0')
  if not value.isdecimal() or int(value) > 255:
    raise UserError(f'{name}={value}: must be 0 to 255')
  return int(value)
