"""A run in a process of its own, to be hurt from outside.

python -m tests.faults.child WORKDIR STEPS [LIMIT]

LIMIT: bytes that a file may grow to, as on a disk that is full.
"""

import resource
import signal
import sys
import time

from tests.training import tiny, toy
from textdiffusion.training.optim import OptimizerConfig

# Whatever its length, a run takes the same steps.
CONSTANT = OptimizerConfig(peak_lr=1e-2, warmup_steps=2, schedule='constant')


def run(batches=None, **settings):
  return toy.run(batches, optimizer=CONSTANT, **settings)


def main(workdir: str, steps: str, limit: str = '') -> None:
  def slow(index, batch):
    if limit and index == 4:
      signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
      resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
    time.sleep(0.01)
    print('batch', index, flush=True)
    return batch

  batches = tiny.Batches(slow)
  run(batches, workdir=workdir, steps=int(steps), checkpoint_every=1)
  print('ended', flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
