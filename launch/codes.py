"""Exit codes: 0 is done, 1 a defect, 2 a user's mistake, and 75 (EX_TEMPFAIL)
what the same command with --resume goes on from: a lost host, a hang.

A run that a signal ended has saved its state and exits with 0, or with
TEXTDIFFUSION_STOPPED_CODE, where a cluster starts again only what failed.
"""

import os
import sys

import jax

from textdiffusion.core.types import UserError

GO_ON = os.EX_TEMPFAIL


def stopped() -> int:
  """Of a run that a signal ended."""
  code = os.environ.get('TEXTDIFFUSION_STOPPED_CODE', '0')
  if not code.isdecimal() or int(code) > 255:
    raise UserError(f'TEXTDIFFUSION_STOPPED_CODE={code}: must be 0 to 255')
  return int(code)


def ended(is_early: bool) -> None:
  """Exits, where a run ended early and not with 0."""
  if is_early and stopped():
    sys.exit(stopped())


def of(error: Exception) -> int:
  """What one of several processes exits with: of the death of another it only
  learns that some exchange with it failed."""
  is_exchange = isinstance(error, jax.errors.JaxRuntimeError)
  is_own = 'RESOURCE_EXHAUSTED' in str(error) or 'INVALID_ARG' in str(error)
  return GO_ON if is_exchange and not is_own else 1
