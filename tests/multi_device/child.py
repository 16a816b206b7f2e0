"""Trains and samples in a process of its own, on one mesh after another; prints
JSON for each.

python -m tests.multi_device.child MESH ...
"""

import json
import math
import sys

import jax

from tests.training import tiny
from textdiffusion.model import bind
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import generate
from textdiffusion.samplers.prompts import blank
from textdiffusion.training.mesh import MeshConfig, make_mesh


def mesh_of(text):
  """'2x2x2' -> a mesh of the first eight devices."""
  sizes = [int(size) for size in text.split('x')]
  return make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])


def main(*meshes: str):
  for text in meshes:
    mesh = mesh_of(text)
    state = tiny.run(tiny.Batches(), mesh, steps=5)
    ids = jax.jit(sample)(state.averaged).ids
    kernel = state.params['layers_0']['mlp']['up']['kernel']
    result = {
      'devices': mesh.size,
      'params': sum(float((x**2).sum()) for x in jax.tree.leaves(state.params)),
      'ids': jax.device_get(ids).tolist(),
      'shard': kernel.addressable_shards[0].data.size / kernel.size,
    }
    print('RESULT', json.dumps(result), flush=True)


def sample(trained):
  model = bind(tiny.METHOD, tiny.NETWORK, trained)
  return generate(model, blank(8, 6), jax.random.key(1), Ancestral(8))


if __name__ == '__main__':
  main(*sys.argv[1:])
