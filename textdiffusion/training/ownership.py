"""A workdir has one owner: the process that holds the lock of its owner.json.

The operating system releases the lock when the process ends, however it ends.
"""

import contextlib
import datetime
import fcntl
import json
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import Any

from textdiffusion.core.types import UserError

OWNER = 'owner.json'
PATIENCE = 5.0  # Seconds; a killed process may take a moment to end.
_PAUSE = 0.2


class InUse(UserError):
  """Another process owns the workdir.

  Attributes:
    holder: description of that process.
  """

  def __init__(self, path: Path, holder: str):
    super().__init__(
      f'workdir={path} is in use by {holder}: wait for its end, stop it '
      '(kill PID ends it with a checkpoint), or name another folder'
    )
    self.holder = holder


class Owner:
  """The sole right to write into a workdir, until `close`.

  Attributes:
    path: the workdir.
  """

  def __init__(self, path: Path, descriptor: int | None, token: str):
    self.path = path
    self._descriptor, self._token = descriptor, token
    self._pid = os.getpid()

  def check(self) -> None:
    """Checks that the folder at `path` is still the one that was claimed.

    Raises:
      UserError: it was moved, removed or replaced.
    """
    if self._descriptor is None or _has_token(self.path, self._token):
      return
    raise UserError(
      f'the folder of this run, {self.path}, was moved, removed or replaced '
      f'during the run{self._place()}: the run has stopped and wrote '
      'nothing into the new folder; to go on, resume the folder of its '
      'checkpoints'
    )

  def close(self) -> None:
    """Releases the workdir; a second call does nothing."""
    descriptor, self._descriptor = self._descriptor, None
    if descriptor is None:
      return
    with contextlib.suppress(OSError):
      # A forked child has a copy of this object, and does not own the folder.
      if os.getpid() == self._pid and _has_token(self.path, self._token):
        (self.path / OWNER).unlink()
    os.close(descriptor)

  def _place(self) -> str:
    """Returns where the claimed folder is now, '' if that is unknown."""
    with contextlib.suppress(OSError):
      place = Path(os.readlink(f'/proc/self/fd/{self._descriptor}'))
      if place.name == OWNER and place.parent != self.path:
        return f' (it is now {place.parent})'
    return ''

  def __enter__(self) -> 'Owner':
    return self

  def __exit__(self, *error: object) -> None:
    self.close()

  def __del__(self) -> None:
    self.close()


def no_owner(path: Path) -> Owner:
  """Returns an owner without a lock, for all hosts but the first."""
  return Owner(path, None, '')


def claim(path: Path, patience: float = PATIENCE) -> Owner:
  """Creates the folder `path` if it is missing, and locks it.

  Args:
    path: the workdir.
    patience: seconds to wait for another process that holds the lock.

  Raises:
    InUse: another process holds the lock.
    OSError: the folder cannot be written.
  """
  path.mkdir(parents=True, exist_ok=True)
  deadline, is_waiting = time.monotonic() + patience, False
  while True:
    descriptor = os.open(
      path / OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666
    )
    try:
      if _lock(descriptor, path):
        token = _sign(descriptor)
        # The file may have been moved or removed since it was opened.
        if _has_token(path, token):
          return Owner(path, descriptor, token)
    except BaseException:
      os.close(descriptor)
      raise
    os.close(descriptor)
    holder = _holder(path)
    if time.monotonic() > deadline:
      raise InUse(path, holder)
    if not is_waiting and patience > PATIENCE:
      print(f'waiting for {holder}, which holds {path}', file=sys.stderr)
    is_waiting = True
    time.sleep(_PAUSE)
    path.mkdir(parents=True, exist_ok=True)


def _lock(descriptor: int, path: Path) -> bool:
  """Returns whether this process has the lock, or locks do not exist here."""
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError as error:
    print(
      f'warning: the file system of {path} has no locks ({error.strerror}): '
      'make sure that no other process trains there',
      file=sys.stderr,
    )
  return True


def _sign(descriptor: int) -> str:
  """Writes who holds the lock; returns a token that no other process has."""
  token = secrets.token_hex(8)
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  owner = {
    'pid': os.getpid(),
    'host': socket.gethostname(),
    'since': now,
    'token': token,
  }
  os.ftruncate(descriptor, 0)
  os.pwrite(descriptor, json.dumps(owner).encode(), 0)
  return token


def _has_token(path: Path, token: str) -> bool:
  """Returns whether `token` is in the owner.json of `path`."""
  try:
    text = (path / OWNER).read_text()
  except (FileNotFoundError, NotADirectoryError):
    return False
  except OSError:  # A network that fails for a moment; the folder is the same.
    return True
  return token in text


def _holder(path: Path) -> str:
  """Describes the process that holds `path`, for a message."""
  owner: dict[str, Any] = {}
  with contextlib.suppress(OSError, ValueError):
    owner = json.loads((path / OWNER).read_text())
  if not isinstance(owner, dict) or 'pid' not in owner:
    return 'another process'
  return (
    f'process {owner["pid"]} on {owner.get("host")}, since {owner.get("since")}'
  )
