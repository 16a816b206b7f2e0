"""A trace of some steps, for xprof and Perfetto."""

from typing import NamedTuple

import jax

from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError


class Steps(NamedTuple):
  """From the start of step `start` to the end of step `stop`."""

  start: int
  stop: int


def parse(text: str) -> Steps | None:
  """`START:STOP`; nothing of ''."""
  if not text:
    return None
  start, _, stop = text.partition(':')
  if not (start.isdecimal() and stop.isdecimal()) or int(start) < 1:
    raise UserError(f'--profile={text}: must be START:STOP, steps from 1 on')
  if int(stop) < int(start):
    raise UserError(f'--profile={text}: STOP must not be below START')
  return Steps(int(start), int(stop))


class Profiler:
  """Writes WORKDIR/profile on the first host, for `xprof WORKDIR/profile`."""

  def __init__(self, steps: Steps | None, workdir: str | None):
    is_wanted = steps is not None and workdir and jax.process_index() == 0
    self._steps = steps if is_wanted else None
    self._folder = expand(workdir or '') / 'profile'
    self._is_on = False

  def before(self, step: int) -> None:
    if self._steps and not self._is_on and step == self._steps.start:
      jax.profiler.start_trace(str(self._folder))
      self._is_on = True

  def after(self, step: int, result: object) -> None:
    """result: what the step computed, waited for where the trace ends."""
    if self._steps and self._is_on and step >= self._steps.stop:
      jax.block_until_ready(result)
      self.close()
      print(f'steps {self._steps.start} to {step}: {self._folder}')

  def close(self) -> None:
    if self._is_on:
      jax.profiler.stop_trace()
      self._is_on = False
