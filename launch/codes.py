"""Exit codes: 0 is done, 1 a defect, 2 a user's mistake, and 75 (EX_TEMPFAIL)
what the same command with --resume may get past: a lost host, a hang.

From the environment, for clusters that start again what failed: the code of a
run that a signal ended after it saved its state (TEXTDIFFUSION_STOPPED_CODE,
0), and how often one may start from the same checkpoint (TEXTDIFFUSION_TRIES, 0
for ever).
"""

import os
import sys

import jax

from textdiffusion.core.types import Interrupted, UserError


def stopped() -> int:
  """Of a run that a signal ended."""
  return _number('TEXTDIFFUSION_STOPPED_CODE')


def tries() -> int:
  """Starts from one checkpoint; 0 for ever."""
  return _number('TEXTDIFFUSION_TRIES')


def ended(is_early: bool) -> None:
  """Exits, where a run ended early and not with 0."""
  if is_early and stopped():
    sys.exit(stopped())


def of(error: Exception) -> int:
  """Where there are many processes, the death of one may be to another but an
  exchange that failed."""
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
