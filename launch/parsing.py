"""Parses the command line; prints errors of flags as one line."""

import sys
from collections.abc import Iterator, Sequence

from absl import flags

from textdiffusion.core.types import UserError

from . import mistakes, paths, printing


def parse_flags(argv: list[str]) -> list[str]:
  """Parses the flags; returns the other arguments. Exits with 2 on an error."""
  printing.allow_any_text()
  _declare_key_flags()
  try:
    ''.join(argv).encode()
    args = flags.FLAGS.read_flags_from_files(argv[1:])  # For --flagfile.
    rest = flags.FLAGS([*argv[:1], *replace_synonyms(args)])
    paths.expand_flags(flags.FLAGS)
    return rest
  except UnicodeError as error:  # In arguments or in a --flagfile.
    sys.exit(printing.report(f'flags must be UTF-8 ({error})'))
  except (flags.Error, UserError) as error:
    sys.exit(printing.report(mistakes.in_words(error, argv)))


def _declare_key_flags() -> None:
  """Makes --help list the flags of every module of this folder.

  It lists the key flags of the program alone, and each module defines its own.
  """
  for name, defined in flags.FLAGS.flags_by_module_dict().items():
    if name.startswith(f'{__package__}.'):
      for flag in defined:
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)


def replace_synonyms(args: Sequence[str]) -> Iterator[str]:
  """Yields arguments with --config.a.b=value replaced by --set=a.b=value.

  The value may also be the next argument, as in ml_collections.

  Raises:
    UserError: a value is missing.
  """
  rest = iter(args)
  for arg in rest:
    name, equals, value = arg.lstrip('-').partition('=')
    if arg == '--':  # No flags follow.
      yield arg
      yield from rest
    elif arg.startswith('-') and name.startswith('config.'):
      if not equals:
        value = next(rest, '--')
        if value.startswith('--'):
          raise UserError(f'--{name} has no value: --{name}=VALUE')
      yield f'--set={name.removeprefix("config.")}={value}'
    else:
      yield arg
