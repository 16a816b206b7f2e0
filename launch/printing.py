"""Output of launchers: text in any encoding, and errors as one line."""

import io
import os
import sys

from textdiffusion.config_files import RecipeNeeded

_SMALLER = (
  'lower --num, --length or --steps when sampling, data.batch_size, '
  'data.length or the sizes of model when training'
)


def allow_any_text() -> None:
  """Makes print escape characters that the output encoding lacks."""
  for file in (sys.stdout, sys.stderr):
    if isinstance(file, io.TextIOWrapper):
      file.reconfigure(errors='backslashreplace')


def report(error: object, code: int = 2) -> int:
  """Prints an error as one line to stderr; returns `code`.

  If a recipe has to be chosen, the table of recipes follows.
  """
  print(f'error: {_escaped(str(error))}', file=sys.stderr)
  if isinstance(error, RecipeNeeded):
    for row in error.table:
      print(f'  {_escaped(row)}', file=sys.stderr)
  return code


def _escaped(text: str) -> str:
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode() for c in text
  )


def report_memory(error: BaseException) -> int:
  """Prints that memory ran out; returns the exit code."""
  reason = str(error).strip().split('\n')[0] or type(error).__name__
  return report(f'memory ran out ({reason[:200]}): {_SMALLER}')


def close_stdout() -> int:
  """Discards further output after a broken pipe (`| head`); returns 0."""
  os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 0
