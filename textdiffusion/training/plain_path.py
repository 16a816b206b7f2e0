"""Paths for Orbax that name a folder itself, not where it was.

Orbax reads `*`, `?` and `[` in a path as patterns, and goes on writing to a
path whose folder was moved away, into whatever took its place. A path through
a file descriptor, `/proc/self/fd/N`, has neither fault.
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
    is_kept: whether the path must still lead to `folder` once it was moved.

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
  # Several hosts name one path to each other, and descriptors differ.
  return jax.process_count() == 1 and _DESCRIPTORS.is_dir()
