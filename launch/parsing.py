"""Flags of the command line, and what is wrong with them in one line."""

import sys

from absl import flags

from launch import paths, printing
from textdiffusion.core.types import UserError


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the flags; returns the other arguments. Exits with 2 on an error."""
  printing.allow_any_text()
  try:
    ''.join(argv).encode()
    rest = flags.FLAGS(argv)
    paths.expand_flags(flags.FLAGS)
    return rest
  except UnicodeError as error:  # of a --flagfile too
    sys.exit(printing.report(f'flags must be UTF-8 ({error})'))
  except (flags.Error, UserError) as error:
    sys.exit(printing.report(' '.join(str(error).split())))
