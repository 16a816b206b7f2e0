"""metrics.jsonl and TensorBoard."""

import json

import pytest
import tensorboardX

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


def test_tensorboard_hides_the_steps_after_the_restored(tmp_path, monkeypatch):
  opened = []

  class Writer(tensorboardX.SummaryWriter):
    def __init__(self, folder, purge_step, **rest):
      opened.append(purge_step)
      super().__init__(folder, purge_step=purge_step, **rest)

  monkeypatch.setattr(tensorboardX, 'SummaryWriter', Writer)
  MetricsLog(tmp_path, step=3).close()
  assert opened == [4], 'the restored step itself stays'
