"""Figures of a run: metrics.jsonl always, TensorBoard beside it."""

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class MetricsLog:
  """Appends rows to WORKDIR/metrics.jsonl and to TensorBoard's files.

  Opened at a restored step, it drops the rows after it, so that the file reads
  as one run. `seconds` is how long the kept rows say it has taken.
  """

  def __init__(self, workdir: str | os.PathLike, step: int = 0):
    # Imported here: it takes a second, and only the first process writes.
    from tensorboardX import SummaryWriter

    folder = Path(workdir).expanduser()
    path = folder / 'metrics.jsonl'
    kept = [row for row in read(path) if row['step'] <= step]
    scratch = path.with_name('metrics.jsonl.tmp')
    scratch.write_text(''.join(json.dumps(row) + '\n' for row in kept))
    os.replace(scratch, path)
    self.seconds = max((row.get('seconds') or 0.0 for row in kept), default=0.0)
    self._file = path.open('a')
    # Hides what an earlier process wrote from this step on.
    self._board: Any = SummaryWriter(
      str(folder / 'tensorboard'), purge_step=step + 1, max_queue=10_000
    )

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """One row; a value that is not finite becomes null, which JSON has."""
    row: dict[str, Any] = {'step': step}
    for name, value in values.items():
      value = float(value)
      row[name] = value if math.isfinite(value) else None
    if not self._file.closed:
      try:
        self._file.write(json.dumps(row) + '\n')
        self._file.flush()
      except OSError as error:  # a full disk ends no run
        print(
          f'warning: {self._file.name} cannot be written ({error.strerror}): '
          f'the figures from step {step} on are not in it',
          file=sys.stderr,
        )
        with contextlib.suppress(OSError):
          self._file.close()
    if self._is_board_alive():
      for name, value in values.items():
        self._board.add_scalar(name, float(value), step)

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._file.close()
    if self._is_board_alive():
      with contextlib.suppress(OSError):
        self._board.close()

  def _is_board_alive(self) -> bool:
    """TensorBoard's files are written by a thread, which dies of a full disk;
    from then on whoever gave it more would wait for ever."""
    if self._board is None:
      return False
    writer: Any = self._board.file_writer
    if not writer.event_writer._worker.is_alive():
      writer.event_writer._event_queue.cancel_join_thread()
      self._board = None
    return self._board is not None


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """The rows of a metrics.jsonl; a last line that was cut off is left out."""
  rows = []
  if Path(path).exists():
    for line in Path(path).read_text().splitlines():
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError:
        break
  return rows
