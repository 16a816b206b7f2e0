"""A run in which nothing goes on ends, whatever it waits for."""

import os
import subprocess
import sys
import time
from pathlib import Path

from textdiffusion.training.watchdog import Watchdog

ROOT = Path(__file__).parents[2]
HANGS = """
import sys, time
from tests.training import tiny, toy
def change(index, batch):
  if index == 4:
    time.sleep(1000)
  return batch
toy.run(tiny.Batches(change), workdir=sys.argv[1], steps=9, patience=8,
        checkpoint_every=1)
"""


def test_data_that_never_come_end_the_run(tmp_path):
  began = time.monotonic()
  out = subprocess.run(
    [sys.executable, '-c', HANGS, str(tmp_path)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=90,
  )
  assert out.returncode == os.EX_TEMPFAIL and time.monotonic() - began < 60
  assert 'no progress for 8 s after step' in out.stderr, out.stderr
  assert '--resume' in out.stderr


def test_it_is_silent_where_something_goes_on():
  ended = []
  watchdog = Watchdog(0.4, lambda: ended.append(1))
  for step in range(8):
    time.sleep(0.1)
    watchdog.beat(step)
  assert not ended
  time.sleep(1.0)
  assert ended == [1]
  never = Watchdog(0, lambda: ended.append(2))
  never.close()
  assert ended == [1]
