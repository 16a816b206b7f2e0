"""Paths given by the user: expansion of `~` and checks for write access."""

import os
from pathlib import Path

from textdiffusion.core.types import UserError


def expand(path: str | os.PathLike) -> Path:
  """Returns `path` with a leading `~` or `~name` replaced by the home folder.

  Raises:
    UserError: the home folder cannot be determined.
  """
  try:
    return Path(path).expanduser()
  except RuntimeError:
    raise UserError(
      f'{path}: the home folder is not known (HOME is not set and the user has '
      'no passwd entry): set HOME or name the whole path'
    ) from None


def check_writable(path: str | os.PathLike, mend: str) -> None:
  """Checks that the file at `path` can be written, without writing it.

  Args:
    path: the file; it and its parent folders need not exist.
    mend: what the user can do, the end of the message.

  Raises:
    UserError: the file cannot be written.
  """
  target = Path(path).absolute()
  if target.is_dir():
    raise UserError(f'{path} is a folder, not a file: {mend}')
  parent = target.parent
  while not os.path.lexists(parent):
    parent = parent.parent
  # The root user may write anywhere, except below a path that is a file.
  if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
    raise UserError(f'{path} cannot be written: {mend}')
