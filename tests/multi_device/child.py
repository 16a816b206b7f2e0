"""Trains and samples in a process of its own; prints JSON.

python -m tests.multi_device.child MESH [WORKDIR PORT COUNT INDEX]
"""

import json
import sys

import jax


def main(mesh: str, workdir: str = '', port: str = '', count='1', index='0'):
  if port:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    jax.distributed.initialize(f'127.0.0.1:{port}', int(count), int(index))
  from tests.training import tiny
  from textdiffusion.core.binding import bind
  from textdiffusion.sampling.generate import SampleConfig, generate
  from textdiffusion.sampling.prompts import blank
  from textdiffusion.training.mesh import MeshConfig, make_mesh
  from textdiffusion.training.workdir import Run

  losses = []
  share = tiny.ROWS // int(count)
  mine = slice(int(index) * share, (int(index) + 1) * share)
  batches = tiny.Batches(
    lambda _, batch: {name: value[mine] for name, value in batch.items()}
  )
  # The loop prints its figures; they are read from the run's file.
  made = make_mesh(MeshConfig(*map(int, mesh.split('x'))))
  steps = 1 if port else 5
  run = Run({}, {}, {'fingerprint': ''}) if workdir else None
  state = tiny.run(
    batches,
    made,
    steps=steps,
    workdir=workdir or None,
    run=run,
    checkpoint_every=steps,
    evaluate=lambda params, step: losses.append(step) or {},
  )
  if port:
    return

  def sample(params):
    model = bind(tiny.DENOISER, params, tiny.METHOD.head)
    config = SampleConfig(steps=8)
    canvas = blank(8, 6)
    return generate(
      tiny.METHOD.sampler, model, jax.random.key(1), canvas, config
    )

  ids = jax.jit(sample)(state.ema).ids
  total = sum(float((x**2).sum()) for x in jax.tree.leaves(state.params))
  kernel = state.params['layers_0']['mlp']['up']['kernel']
  told = {
    'devices': jax.device_count(),
    'params': total,
    'ids': jax.device_get(ids).tolist(),
    'shard': kernel.addressable_shards[0].data.size / kernel.size,
  }
  print('RESULT', json.dumps(told))


if __name__ == '__main__':
  main(*sys.argv[1:])
