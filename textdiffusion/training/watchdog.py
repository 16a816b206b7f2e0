"""Ends a run that hangs, as one host that hangs blocks all others."""

import os
import sys
import threading
import time
from collections.abc import Callable

from textdiffusion.training.workdir import RESUME


class Watchdog:
  """Calls `end` once `beat` was not called for `seconds`; 0 never does.

  By default `end` prints an error and exits the process with code 75.
  """

  def __init__(self, seconds: float, end: Callable[[], None] | None = None):
    self._seconds, self._last, self._step = seconds, time.monotonic(), 0
    self._end = end or self._exit
    self._done = threading.Event()
    if seconds:
      threading.Thread(target=self._look, daemon=True).start()

  def beat(self, step: int) -> None:
    """Reports progress: `step` steps are done."""
    self._last, self._step = time.monotonic(), step

  def close(self) -> None:
    self._done.set()

  def _look(self) -> None:
    while not self._done.wait(min(self._seconds / 4, 10.0)):
      if time.monotonic() - self._last > self._seconds:
        self._end()
        return

  def _exit(self) -> None:
    """Exits at once, as the main thread may wait for a device for ever."""
    print(
      f'error: no progress for {self._seconds:g} s after step {self._step}'
      ': a host, its data or its disk hangs; fix that and continue with '
      f'{RESUME}, or raise train.patience',
      file=sys.stderr,
      flush=True,
    )
    os._exit(os.EX_TEMPFAIL)
