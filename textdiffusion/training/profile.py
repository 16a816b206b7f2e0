"""Traces of a few training steps, for xprof and Perfetto."""

from typing import NamedTuple

import jax

from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError


class Steps(NamedTuple):
  """The steps of a trace.

  Attributes:
    start: first step of the trace.
    stop: last step of the trace, included.
  """

  start: int
  stop: int


def parse(text: str) -> Steps | None:
  """Parses `START:STOP`; '' gives None.

  Raises:
    UserError: `text` is not two step numbers in order.
  """
  if not text:
    return None
  start, _, stop = text.partition(':')
  if not (start.isdecimal() and stop.isdecimal()) or int(start) < 1:
    raise UserError(f'--profile={text}: must be START:STOP, steps from 1 on')
  if int(stop) < int(start):
    raise UserError(f'--profile={text}: STOP must not be below START')
  return Steps(int(start), int(stop))


class Profiler:
  """Writes a trace to WORKDIR/profile on the first host.

  View it with `xprof WORKDIR/profile`.
  """

  def __init__(self, steps: Steps | None, workdir: str | None):
    is_wanted = steps is not None and workdir and jax.process_index() == 0
    self._steps = steps if is_wanted else None
    self._folder = expand(workdir or '') / 'profile'
    self._is_on = False

  def before(self, step: int) -> None:
    """Starts the trace if `step` is its first step."""
    if self._steps and not self._is_on and step == self._steps.start:
      jax.profiler.start_trace(str(self._folder))
      self._is_on = True

  def after(self, step: int, result: object) -> None:
    """Ends the trace if `step` is its last step.

    Args:
      step: the step that was dispatched.
      result: arrays that the step returned; the trace ends once they are
        computed.
    """
    if self._steps and self._is_on and step >= self._steps.stop:
      jax.block_until_ready(result)
      self.close()
      print(f'steps {self._steps.start} to {step}: {self._folder}')

  def close(self) -> None:
    if self._is_on:
      jax.profiler.stop_trace()
      self._is_on = False
