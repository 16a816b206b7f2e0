"""What every launcher shares: flags, one-line errors, checkpoints by path."""

import sys
from collections.abc import Callable

from absl import app, flags

from textdiffusion.core.types import UserError


def run(main: Callable[[], None]) -> None:
  """Runs main; a user's error ends as one line on stderr and exit code 2."""

  def guarded(argv: list[str]) -> None:
    try:
      if len(argv) > 1:
        raise UserError(f'unexpected argument {argv[1]!r}: flags begin with --')
      main()
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(2)

  def parsed(argv: list[str]) -> list[str]:
    try:
      return flags.FLAGS(argv)
    except flags.Error as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(2)

  app.run(guarded, flags_parser=parsed)
