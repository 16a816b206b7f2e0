"""One of two hosts, in a process of its own; prints JSON.

python -m tests.multi_device.host WORKDIR PORT INDEX
"""

import json
import os
import signal
import sys
import time

import jax
import numpy as np


def main(workdir: str, port: str, index: str) -> None:
  jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  jax.distributed.initialize(f'127.0.0.1:{port}', 2, int(index))
  from tests.training import tiny, toy
  from textdiffusion.core.types import UserError
  from textdiffusion.training.mesh import (
    MeshConfig,
    check_batch,
    make_mesh,
    put_whole,
  )
  from textdiffusion.training.workdir import prepare_workdir

  def refused(call, *args):
    try:
      call(*args)
    except UserError as error:
      return str(error)
    return ''

  told = {}
  # The second host comes late, when the first would have written the config.
  time.sleep(float(index))
  told['fresh'] = refused(prepare_workdir, workdir, toy.RUN)
  told['again'] = refused(prepare_workdir, workdir, toy.RUN)
  told['resumed'] = refused(prepare_workdir, workdir, toy.RUN, True)
  split = make_mesh(MeshConfig(data=1, tensor=2))
  told['tensor'] = refused(check_batch, split, 8, 1)

  mesh = make_mesh(MeshConfig())
  for rows in (8, 3):
    ids = np.arange(rows * 2).reshape(rows, 2)
    whole = put_whole(mesh, {'ids': ids})['ids']
    assert whole.shape == ids.shape
    copied = jax.jit(
      lambda x: x + 0, out_shardings=jax.NamedSharding(mesh, jax.P())
    )(whole)
    assert (np.asarray(copied) == ids).all()

  def share(now, batch):
    if now == 3 and index == '1':  # only one of them is told to stop
      os.kill(os.getpid(), signal.SIGTERM)
    half = slice(int(index) * 4, int(index) * 4 + 4)
    return {name: value[half] for name, value in batch.items()}

  state = toy.run(
    tiny.Batches(share), mesh, workdir=workdir, steps=50, checkpoint_every=0
  )
  told['step'] = int(state.step)
  print('RESULT', json.dumps(told), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
