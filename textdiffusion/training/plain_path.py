"""Paths for Orbax that follow a folder when it is moved.

Orbax reads `*`, `?` and `[` in a path as patterns. It also keeps writing to a
path after its folder was moved away, into whatever folder is there now. A path
through a file descriptor, `/proc/self/fd/N`, has neither problem.
"""

import glob
import os
from collections.abc import Callable
from pathlib import Path

import jax

from textdiffusion.core.types import UserError

_DESCRIPTORS = Path('/proc/self/fd')


def check_plain(path: Path) -> None:
  """Raises UserError for a path that cannot be used on this system."""
  if glob.has_magic(str(path)) and not has_descriptors():
    raise UserError(
      f'{path}: several hosts, and systems other than Linux, need a path '
      'without *, ? and [: name another folder'
    )


def plain_path(folder: Path, is_kept: bool) -> tuple[Path, Callable[[], None]]:
  """Returns a path to `folder`, through a descriptor of its parent if needed.

  Args:
    folder: its parent must exist.
    is_kept: whether the path must lead to `folder` even after it was moved.

  Returns:
    The path, and a function that closes the descriptor.
  """
  check_plain(folder)
  is_needed = is_kept or glob.has_magic(str(folder))
  if not is_needed or not has_descriptors():
    return folder, lambda: None
  descriptor = os.open(folder.parent, os.O_RDONLY | os.O_CLOEXEC)
  path = _DESCRIPTORS / str(descriptor) / folder.name
  return path, lambda: os.close(descriptor)


def has_descriptors() -> bool:
  """Returns whether paths through descriptors can be used."""
  # Several hosts exchange paths, and their descriptors differ.
  return jax.process_count() == 1 and _DESCRIPTORS.is_dir()
