"""Metrics of a run, written to metrics.jsonl and to TensorBoard files."""

import contextlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textdiffusion.core.paths import expand

_FLUSH_SECONDS = 60.0  # Time between two flushes of TensorBoard files.


class MetricsLog:
  """Appends rows to WORKDIR/metrics.jsonl and to TensorBoard files.

  A step has one row: the figures of an evaluation are merged into the row of
  its step. A log that is opened at a restored step drops all later rows, so
  that the file reads as one run. If a file cannot be written (a full disk), one
  warning is printed, the file is closed, and the run goes on.

  Attributes:
    seconds: duration of the run up to the restored step.
  """

  def __init__(self, workdir: str | os.PathLike, step: int = 0):
    folder = expand(workdir)
    path = folder / 'metrics.jsonl'
    kept = [row for row in read(path) if row['step'] <= step]
    scratch = path.with_name('metrics.jsonl.tmp')
    scratch.write_text(''.join(json.dumps(row) + '\n' for row in kept))
    os.replace(scratch, path)
    self.seconds = max((row.get('seconds') or 0.0 for row in kept), default=0.0)
    self._files: list[_Rows | _Board] = [
      _Rows(path),
      _Board(folder / 'tensorboard', step),
    ]

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Writes one row. JSON has no nan or inf: such values become null."""
    values = {name: float(value) for name, value in values.items()}
    for file in list(self._files):
      try:
        file.write(step, values)
      except OSError as error:
        print(
          f'warning: {file.path} cannot be written ({error.strerror}): '
          f'the figures from step {step} on are not in it',
          file=sys.stderr,
        )
        self._files.remove(file)
        file.close()

  def close(self) -> None:
    for file in self._files:
      file.close()


class _Rows:
  """The file metrics.jsonl."""

  def __init__(self, path: Path):
    self.path = path
    self._file = path.open('a')
    self._last: dict[str, float | None] = {}
    self._place = 0  # Offset of the last row in the file.

  def write(self, step: int, values: Mapping[str, float]) -> None:
    row = {k: v if math.isfinite(v) else None for k, v in values.items()}
    row = {'step': step, **row}
    if self._last.get('step') == step:
      row = {**self._last, **row}
      self._file.truncate(self._place)
    self._last, self._place = row, self._file.seek(0, os.SEEK_END)
    self._file.write(json.dumps(row) + '\n')
    self._file.flush()

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._file.close()


class _Board:
  """A TensorBoard events file, written in the calling thread.

  The background thread of SummaryWriter dies when the disk is full, and later
  writes to it block for ever.
  """

  def __init__(self, folder: Path, step: int):
    # Imported here, as it takes a second and only the first process writes.
    from tensorboardX.proto import event_pb2, summary_pb2
    from tensorboardX.record_writer import RecordWriter

    self.path = folder
    # The classes are created at import, so type checkers do not know them.
    self._events: Any = event_pb2
    self._summaries: Any = summary_pb2
    folder.mkdir(parents=True, exist_ok=True)
    name = f'{int(time.time())}.{socket.gethostname()}.{os.getpid()}'
    path = folder / f'events.out.tfevents.{name}'
    self._file: Any = RecordWriter(str(path))
    self._flushed = time.monotonic()
    self._add(0, file_version='brain.Event:2')
    # TensorBoard hides what an earlier process wrote from this step on.
    log = self._events.SessionLog
    self._add(step + 1, session_log=log(status=log.START))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    one = self._summaries.Summary.Value
    value = [one(tag=k, simple_value=v) for k, v in values.items()]
    self._add(step, summary=self._summaries.Summary(value=value))
    # A flush waits for the disk, and uploads the whole file if the folder is a
    # mounted bucket.
    if time.monotonic() > self._flushed + _FLUSH_SECONDS:
      self._file.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    with contextlib.suppress(OSError):
      self._file.close()

  def _add(self, step: int, **fields: Any) -> None:
    event = self._events.Event(wall_time=time.time(), step=step, **fields)
    self._file.write(event.SerializeToString())


def read(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads the rows of a metrics.jsonl, without an incomplete last line."""
  rows = []
  if Path(path).exists():
    for line in Path(path).read_text().splitlines():
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError:
        break
  return rows
