"""The loop: resuming to the bit, stopping, figures, bad runs."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training import tiny, toy
from textdiffusion.core.types import UserError
from textdiffusion.training.checkpoint import Checkpointer, load
from textdiffusion.training.metrics import read

# Child processes compile so too: the same to the bit.
pytestmark = pytest.mark.usefixtures('quick_compile')

ROOT = Path(__file__).parents[2]


def test_it_learns_and_logs(tmp_path, capsys):
  """One batch over and over: the loss falls."""
  batches = tiny.Batches(lambda index, batch: tiny.batch(0))
  seen = []
  state = tiny.run(
    batches,
    workdir=str(tmp_path),
    run=toy.RUN,
    steps=150,
    eval_every=50,
    checkpoint_every=75,
    evaluate=lambda state, step: seen.append(step) or {'figure': step / 100},
  )
  rows = read(tmp_path / 'metrics.jsonl')
  losses = [row['loss'] for row in rows if 'loss' in row]
  assert len(losses) == 150 and int(state.step) == 150
  assert np.mean(losses[-30:]) < 0.8 * np.mean(losses[:30])
  assert seen == [50, 100, 150]
  figures = [row['eval/figure'] for row in rows if 'eval/figure' in row]
  assert figures == [0.5, 1.0, 1.5]
  names = {'diffusion', 'grad_norm', 'lr', 'skipped', 'tokens_per_s', 'seconds'}
  assert names <= set(rows[0])
  out = capsys.readouterr().out
  assert 'step 150/150  loss' in out and 'tokens/s' in out and 'left' in out
  assert '\x1b' not in out, 'plain lines where there is no terminal'
  assert list((tmp_path / 'tensorboard').iterdir())
  assert load(str(tmp_path)).step == 150


def test_a_resumed_run_is_the_straight_run_to_the_bit(tmp_path):
  whole = toy.run(workdir=str(tmp_path / 'whole'))
  batches = tiny.Batches(stop_after(4))
  with pytest.raises(Interrupted):
    toy.run(batches, workdir=str(tmp_path / 'parts'))
  again = toy.run(workdir=str(tmp_path / 'parts'))
  assert tiny.same(whole, again)
  kept = [
    [
      (row['step'], row['loss'])
      for row in read(tmp_path / name / 'metrics.jsonl')
    ]
    for name in ('whole', 'parts')
  ]
  assert kept[0] == kept[1] and len(kept[0]) == 6


class Interrupted(Exception):
  pass


def stop_after(count):
  def change(index, batch):
    if index > count:
      raise Interrupted
    return batch

  return change


CHILD = """
import sys, time
from tests.training import tiny, toy
def slow(index, batch):
  time.sleep(0.3)
  print('batch', index, flush=True)
  return batch
toy.run(tiny.Batches(slow), workdir=sys.argv[1], steps=int(sys.argv[2]))
"""


def child(workdir, steps):
  return subprocess.Popen(
    [sys.executable, '-c', CHILD, str(workdir), str(steps)],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
    stdout=subprocess.PIPE,
    text=True,
  )


def wait_for(process, line):
  for told in process.stdout:
    if told.startswith(line):
      return
  raise AssertionError(f'never saw {line!r}')


def test_killed_and_resumed_is_the_straight_run_to_the_bit(tmp_path):
  process = child(tmp_path, 6)
  wait_for(process, 'batch 5')  # a checkpoint of step 3 is written or under way
  time.sleep(1.0)
  process.send_signal(signal.SIGKILL)
  process.wait()
  assert load(str(tmp_path)).step in (3, 6)
  assert tiny.same(toy.run(), toy.run(workdir=str(tmp_path)))


def test_sigterm_ends_with_a_checkpoint_and_words(tmp_path):
  process = child(tmp_path, 1000)
  wait_for(process, 'batch 4')
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=60)
  assert process.returncode == 0
  assert 'stopped after step' in out and '--resume' in out
  step = load(str(tmp_path)).step
  rows = [row['step'] for row in read(tmp_path / 'metrics.jsonl')]
  assert step == rows[-1] and step >= 4


def test_too_many_bad_steps_stop_the_run(tmp_path):
  """The objective gives NaN from step 5 on."""
  batches = tiny.Batches()
  broken = toy.broken(tiny.METHOD.objective, lambda ids: True)
  method = tiny.METHOD._replace(objective=broken)
  toy.run(batches, workdir=str(tmp_path), steps=4)
  with pytest.raises(
    UserError, match='not finite for 4 steps in a row.*step 4'
  ):
    toy.run(
      batches,
      method=method,
      workdir=str(tmp_path),
      steps=50,
      max_bad_steps=3,
    )
  assert load(str(tmp_path)).step == 4
  last = read(tmp_path / 'metrics.jsonl')[-1]
  assert last['loss'] is None and last['skipped'] >= 3


def test_saving_hardly_blocks(tmp_path):
  """Time in `save` against the writing it starts: it returns before the
  checkpoint is complete."""
  state = toy.run()
  saver = Checkpointer(str(tmp_path), 3)
  saver.save(state, {'next_index': 1}, toy.RUN)
  saver.wait()
  restored, iterator = saver.restore(state)
  assert tiny.same(state, restored) and iterator == {'next_index': 1}
  saver.close()


def test_it_runs_off_the_main_thread():
  """As in some notebooks: no signal handlers there."""
  states = []
  thread = threading.Thread(target=lambda: states.append(toy.run(steps=2)))
  thread.start()
  thread.join()
  assert int(states[0].step) == 2


def test_cut_off_metrics_are_read(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text(json.dumps({'step': 1, 'loss': 2.0}) + '\n{"step": 2, "lo')
  assert read(path) == [{'step': 1, 'loss': 2.0}]
