"""Paths that a user names: the home folder, and whether they can be written."""

import os
from pathlib import Path

from textdiffusion.core.types import UserError


def expand(path: str | os.PathLike) -> Path:
  """Returns `path` with a leading `~` or `~name` replaced by the home folder.

  Raises:
    UserError: the home folder is not known.
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
    path: the file; it and the folders above it may be missing.
    mend: what the user can do, the end of the message.

  Raises:
    UserError: it cannot be written.
  """
  target = Path(path).absolute()
  if target.is_dir():
    raise UserError(f'{path} is a folder, not a file: {mend}')
  parent = target.parent
  while not os.path.lexists(parent):
    parent = parent.parent
  # Root may write anywhere, except below a file.
  if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
    raise UserError(f'{path} cannot be written: {mend}')
