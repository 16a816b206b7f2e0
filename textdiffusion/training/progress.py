"""Progress displays of a run: a live bar, or plain lines in a log."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Generator, Mapping
from typing import Any, Protocol


class Progress(Protocol):
  """A display of a run's progress."""

  def update(self, step: int, values: Mapping[str, float]) -> None:
    """Shows the figures of a logged step."""
    ...

  def print_line(self, line: str) -> None:
    """Prints a line of text above the bar, or where it is shown next."""
    ...

  def close(self) -> None:
    """Ends the display."""
    ...


class Lines:
  """Prints one line per logged step, for files and pipes."""

  def __init__(self, total: int, start: int = 0):
    self._total, self._start, self._began = total, start, time.monotonic()

  def update(self, step: int, values: Mapping[str, float]) -> None:
    spent = time.monotonic() - self._began
    left = spent * (self._total - step) / max(step - self._start, 1)
    parts = [
      f'step {step}/{self._total}',
      *in_words(values),
      f'left {clock(left)}',
    ]
    print('  '.join(parts), flush=True)

  def print_line(self, line: str) -> None:
    print(line, flush=True)

  def close(self) -> None:
    pass


class Bar:
  """A live progress bar in a terminal, drawn by `rich`."""

  def __init__(self, total: int, start: int = 0):
    from rich import progress

    self._progress = progress.Progress(
      progress.BarColumn(),
      progress.MofNCompleteColumn(),
      progress.TextColumn('{task.description}'),
      progress.TextColumn('left'),
      progress.TimeRemainingColumn(elapsed_when_finished=True),
    )
    self._task = self._progress.add_task(
      'compiling', total=total, completed=start
    )
    self._progress.start()

  def update(self, step: int, values: Mapping[str, float]) -> None:
    self._progress.update(
      self._task, completed=step, description='  '.join(in_words(values))
    )

  def print_line(self, line: str) -> None:
    self._progress.console.print(line, highlight=False, markup=False)

  def close(self) -> None:
    self._progress.stop()


class Cell:
  """One line of notebook output that is redrawn in place, without widgets."""

  def __init__(self, total: int, start: int = 0):
    from IPython import display

    self._display = display
    self._total, self._start, self._began = total, start, time.monotonic()
    self._handle = display.display(
      self._html(start, ['compiling']), display_id=True
    )

  def update(self, step: int, values: Mapping[str, float]) -> None:
    spent = time.monotonic() - self._began
    left = spent * (self._total - step) / max(step - self._start, 1)
    words = [*in_words(values), f'left {clock(left)}']
    self._handle.update(self._html(step, words))

  def print_line(self, line: str) -> None:
    print(line, flush=True)

  def close(self) -> None:
    pass

  def _html(self, step: int, words: list[str]) -> Any:
    bar = f'<progress value="{step}" max="{self._total}"></progress>'
    text = '&ensp;'.join([f'{step}/{self._total}', *words])
    return self._display.HTML(f'<code>{bar} {text}</code>')


def make(total: int, start: int = 0, is_first_host: bool = True) -> Progress:
  """Returns the display that fits: a notebook cell, a bar, lines or nothing.

  Args:
    total: steps of the run.
    start: steps already taken.
    is_first_host: whether this host is the first; the others show nothing.
  """
  if not is_first_host:
    return Silent()
  if _in_notebook():
    return Cell(total, start)
  return Outlasting((Bar if sys.stdout.isatty() else Lines)(total, start))


class Silent:
  """Shows nothing; used on all hosts but the first."""

  def update(self, step: int, values: Mapping[str, float]) -> None:
    pass

  def print_line(self, line: str) -> None:
    pass

  def close(self) -> None:
    pass


class Outlasting:
  """A display that becomes silent once its terminal or pipe is gone.

  The run goes on, so that after a hangup it still saves its state.
  """

  def __init__(self, shown: Progress):
    self._shown = shown

  def update(self, step: int, values: Mapping[str, float]) -> None:
    with self._silent_if_gone():
      self._shown.update(step, values)

  def print_line(self, line: str) -> None:
    with self._silent_if_gone():
      self._shown.print_line(line)

  def close(self) -> None:
    with self._silent_if_gone():
      self._shown.close()

  @contextlib.contextmanager
  def _silent_if_gone(self) -> Generator[None, None, None]:
    try:
      yield
    except OSError as error:
      if error.errno not in (errno.EIO, errno.EPIPE):
        raise
      self._shown = Silent()
      sys.stdout = open(os.devnull, 'w')  # noqa: SIM115 for good
      if error.errno == errno.EIO:  # A lost terminal, which stderr shares.
        sys.stderr = sys.stdout


def in_words(values: Mapping[str, float]) -> list[str]:
  """Formats the main figures: loss, throughput, FLOP/s and skipped steps."""
  words = []
  if 'loss' in values:
    words.append(f'loss {values["loss"]:.4f}')
  if 'tokens_per_s' in values:
    words.append(f'{short(values["tokens_per_s"])} tokens/s')
  if values.get('model_flops_per_s'):
    words.append(f'{short(values["model_flops_per_s"])}FLOP/s')
  if values.get('skipped'):
    words.append(f'{values["skipped"]:.0f} skipped')
  return words


def short(value: float) -> str:
  """Formats a number with three digits and a unit: 1234567 -> '1.23 M'."""
  for unit in ('', 'k', 'M', 'G', 'T'):
    if abs(value) < 1000:
      return f'{value:.3g} {unit}'
    value /= 1000
  return f'{value:.3g} P'


def clock(seconds: float) -> str:
  """Formats seconds as h:mm:ss."""
  whole = int(seconds)
  return f'{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}'


def _in_notebook() -> bool:
  shell = sys.modules.get('IPython')
  if shell is None or shell.get_ipython() is None:
    return False
  return 'IPKernelApp' in shell.get_ipython().config
