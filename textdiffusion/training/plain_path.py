"""Folders whose path holds `*`, `?` or `[`, which Orbax reads as patterns."""

import glob
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

from textdiffusion.core.types import UserError


def check_plain(path: Path) -> None:
  """Raises UserError for a path that several hosts cannot use."""
  if glob.has_magic(str(path)) and jax.process_count() > 1:
    raise UserError(
      f'{path}: several hosts need a path without *, ? and [: name another '
      'folder'
    )


def plain_path(folder: Path) -> tuple[Path, Callable[[], None]]:
  """Returns a path to `folder` without pattern characters.

  Where `folder` has some, the path leads through a link in a temporary folder.

  Returns:
    The path, and a function that removes the link.
  """
  if not glob.has_magic(str(folder)):
    return folder, lambda: None
  check_plain(folder)
  scratch = Path(tempfile.mkdtemp(prefix='textdiffusion-'))
  if glob.has_magic(str(scratch)):
    scratch.rmdir()
    raise UserError(
      f'{folder}: a path with *, ? or [ needs a temporary folder without them, '
      f'and TMPDIR={tempfile.gettempdir()}: name another folder'
    )
  link = scratch / 'link'
  link.symlink_to(folder.parent)
  owner = os.getpid()

  def remove() -> None:
    if os.getpid() == owner:  # a forked child must leave it
      link.unlink(missing_ok=True)
      scratch.rmdir()

  return link / folder.name, remove
