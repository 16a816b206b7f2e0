"""metrics.jsonl and TensorBoard."""

import json
import struct

import pytest
from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import masked_crc32c

from textdiffusion.training.metrics import MetricsLog, read


def test_rows_after_the_restored_step_are_dropped(tmp_path):
  log = MetricsLog(tmp_path)
  for step in range(1, 6):
    log.write(step, {'loss': 1 / step, 'seconds': 10.0 * step})
  log.close()
  log = MetricsLog(tmp_path, step=3)
  assert log.seconds == 30.0
  log.write(4, {'loss': 9.0})
  log.close()
  rows = read(tmp_path / 'metrics.jsonl')
  assert [row['step'] for row in rows] == [1, 2, 3, 4]
  assert rows[3]['loss'] == 9.0


def test_a_row_that_was_cut_off_does_not_stay(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
  log = MetricsLog(tmp_path, step=2)
  log.write(3, {'loss': 1.0})
  log.close()
  lines = path.read_text().splitlines()
  assert [json.loads(line)['step'] for line in lines] == [1, 3]


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_is_not_finite_is_null(tmp_path, value):
  log = MetricsLog(tmp_path)
  log.write(1, {'loss': value})
  log.close()
  assert read(tmp_path / 'metrics.jsonl') == [{'step': 1, 'loss': None}]


def test_tensorboard_reads_the_figures_and_hides_the_steps_after_the_restored(
  tmp_path,
):
  log = MetricsLog(tmp_path, step=3)
  log.write(4, {'loss': 0.5, 'evaluation/bound': float('nan')})
  log.close()
  version, start, row = events(tmp_path / 'tensorboard')
  assert version.file_version == 'brain.Event:2'
  assert start.session_log.status == start.session_log.START
  assert start.step == 4, 'the restored step itself stays'
  assert row.step == 4 and row.wall_time >= start.wall_time > 0
  assert [v.tag for v in row.summary.value] == ['loss', 'evaluation/bound']
  assert row.summary.value[0].simple_value == 0.5


def events(folder):
  """TensorFlow's records: length, its sum, the message, its sum."""
  (path,) = folder.iterdir()
  data = path.read_bytes()
  while data:
    (size,) = struct.unpack('<Q', data[:8])
    assert struct.unpack('<I', data[8:12])[0] == masked_crc32c(data[:8])
    yield event_pb2.Event.FromString(data[12 : 12 + size])
    data = data[16 + size :]


def test_a_step_has_one_row(tmp_path):
  """An evaluation joins the row of its step, of a resumed run too."""
  log = MetricsLog(tmp_path)
  log.write(1, {'loss': 3.0})
  log.write(2, {'loss': 2.0})
  log.write(2, {'eval/bound': 1.5})
  log.close()
  log = MetricsLog(tmp_path, step=2)
  log.write(3, {'eval/bound': 1.0})
  log.close()
  assert read(tmp_path / 'metrics.jsonl') == [
    {'step': 1, 'loss': 3.0},
    {'step': 2, 'loss': 2.0, 'eval/bound': 1.5},
    {'step': 3, 'eval/bound': 1.0},
  ]
