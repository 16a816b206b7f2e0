"""Measures which share of the training time a checkpoint save blocks."""

import statistics
import tempfile
import time

import jax

from benchmarks import common
from benchmarks.train_step import prepared
from textdiffusion.training.checkpoint import Checkpointer
from textdiffusion.training.workdir import Run

STEPS, SAVES = 50, 3


def measure() -> dict[str, object]:
  step, state, batch = prepared()
  state, metrics = step(state, batch)
  jax.block_until_ready(metrics)
  run = Run({}, {}, {})
  blocked, between = [], []
  with tempfile.TemporaryDirectory() as folder:
    saver = Checkpointer(folder, keep=2)
    saver.save(state, {}, run)
    began = time.perf_counter()
    for _ in range(SAVES):
      for _ in range(STEPS):
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
      # A save also waits for the previous one, if that is still being written.
      blocked.append(common.seconds(lambda: saver.save(state, {}, run)))  # noqa: B023
      between.append(time.perf_counter() - began)
      began = time.perf_counter()
    saver.wait()
    saver.close()
  return {
    'steps_between_saves': STEPS,
    'seconds_between_saves': statistics.median(between),
    'seconds_blocked': statistics.median(blocked),
    'fraction_blocked': sum(blocked) / sum(between),
  }


if __name__ == '__main__':
  common.main('checkpoint', measure)
