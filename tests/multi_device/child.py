"""Trains and samples in a process of its own; prints JSON.

python -m tests.multi_device.child MESH
"""

import json
import sys

import jax


def main(mesh: str):
  from tests.training import tiny
  from textdiffusion.model import bind
  from textdiffusion.samplers.ancestral import Ancestral
  from textdiffusion.samplers.base import generate
  from textdiffusion.samplers.prompts import blank
  from textdiffusion.training.mesh import MeshConfig, make_mesh

  made = make_mesh(MeshConfig(*map(int, mesh.split('x'))))
  state = tiny.run(tiny.Batches(), made, steps=5)

  def sample(trained):
    model = bind(tiny.METHOD, tiny.NETWORK, trained)
    return generate(model, blank(8, 6), jax.random.key(1), Ancestral(8))

  ids = jax.jit(sample)(state.averaged).ids
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
