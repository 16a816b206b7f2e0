"""Every kind of objective on meshes of up to 32 devices, in a process of its
own: the loss and gradient of the true training step; prints JSON.

python -m tests.multi_device.layouts_child PART PARTS
"""

import dataclasses
import json
import math
import os
import sys

import jax
import numpy as np
import optax

from tests.methods.test_methods import CONFIGS, VOCAB
from tests.states import random_state
from textdiffusion.methods.method import build_network
from textdiffusion.model import Trained, bind
from textdiffusion.nn.network import BlockCausal
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.samplers.base import generate
from textdiffusion.samplers.options import with_options
from textdiffusion.samplers.prompts import blank
from textdiffusion.training.mesh import MeshConfig, make_mesh, put_batch
from textdiffusion.training.optim import Optimizer
from textdiffusion.training.state import TrainConfig
from textdiffusion.training.step import jit_train_step

ROWS, LENGTH = 8, 8
MESHES = {
  'one': MeshConfig(1),
  'data': MeshConfig(8),
  'fsdp': MeshConfig(1, 8),
  'tensor': MeshConfig(2, 2, 2),
  'sequence': MeshConfig(2, 1, 1, 4),
  # All axes at once: one compilation in which every axis can fail.
  'every': MeshConfig(2, 2, 2, 4),
}
DEVICES = 32
# One of each objective, on networks that take the time and not.
METHODS = (
  *('mdlm', 'd3pm', 'dfm', 'duo', 'genmd4', 'udlm', 'gidd', 'sedd', 'radd'),
  *('autoregressive', 'flexmdm', 'edit-flows', 'diffusion_lm', 'cdcd'),
  *('flow_lm', 'plaid', 'ar_diffusion', 'diffusion_lm-bound'),
)
STRUCTURES = {'gidd': BlockCausal(4)}  # not what it does to GIDD, but to a mesh
SAMPLED = ('mdlm', 'autoregressive', 'diffusion_lm')
# Each axis alone for every method too (continuous integration); else for MDLM.
IS_WHOLE = os.environ.get('TEXTDIFFUSION_ALL_MESHES') == '1'
# Gradients as they are: what a step takes off the parameters.
PLAIN = Optimizer(optax.identity(), lambda step: 1.0)


def meshes_of(name):
  """Names of the meshes of several devices on which a method is compared."""
  return set(MESHES) - {'one'} if IS_WHOLE or name == 'mdlm' else {'every'}


def batch():
  draw = np.random.default_rng(0)
  ids = draw.integers(0, 4, (ROWS, LENGTH), dtype=np.int32)
  segments = np.ones_like(ids)
  segments[1, 6:] = 0
  return {
    'ids': ids,
    'segments': segments,
    'positions': np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
    'rows': np.arange(ROWS, dtype=np.int32),
    'stop': np.zeros(ROWS, np.int32),
  }


def network(name, method, attention='auto'):
  config = TransformerConfig(
    num_layers=1,
    d_model=16,
    num_heads=2,
    d_ff=32,
    mlp='swiglu' if name < 'e' else 'gelu',
    use_bias=name < 'e',
    time='none' if method.process is None else 'adaln',
    scan='scan' if name == 'mdlm' else 'unroll',
    remat='full' if name == 'mdlm' else 'none',
    attention=attention,
    loss_chunk=2 if name == 'mdlm' else 0,
  )
  return build_network(method, config)


def method_of(name):
  method = CONFIGS[name].build(VOCAB)
  structure = STRUCTURES.get(name, method.structure)
  return method._replace(structure=structure)


def results(name, mesh, state):
  """Loss, gradient as one vector, ids of samples, share of a kernel."""
  method = method_of(name)
  net = network(name, method)
  config = TrainConfig(steps=1)
  before = state.params
  with jax.set_mesh(mesh):
    placed = jit_train_step(method, net, PLAIN, config, mesh)
    laid = jax.tree.map(lambda x: x.sharding, placed.state)
    # Of copies: what is donated may lie where numpy has it.
    state = jax.device_put(jax.tree.map(np.array, state), laid)
    moved = state.params
    kernel = next(
      leaf
      for path, leaf in jax.tree_util.tree_leaves_with_path(moved)
      if 'down' in str(path) and 'kernel' in str(path)
    )
    share = kernel.addressable_shards[0].data.size / kernel.size
    ids = None
    if name in SAMPLED:

      def sample(trained):
        model = bind(method, net, trained)
        canvas, sampler = blank(ROWS, LENGTH), method.sampler
        if method.process is not None:
          sampler = with_options(sampler, 4)
        return generate(model, canvas, jax.random.key(1), sampler).ids

      ids = np.asarray(
        jax.jit(sample)(Trained(moved, state.method_state))
      ).tolist()
    after, metrics = placed.step(state, put_batch(mesh, batch()))
  grads = jax.tree.map(lambda a, b: a - np.asarray(b), before, after.params)
  flat = np.concatenate([g.ravel() for g in jax.tree.leaves(grads)])
  return float(metrics['loss']), flat, ids, share


def mesh_of(kind):
  """A mesh on the first devices, as many as it needs."""
  config = MESHES[kind]
  size = math.prod(dataclasses.astuple(config))
  return make_mesh(config, jax.devices()[:size])


def main(part: str, parts: str) -> None:
  result = {}
  for name in METHODS[int(part) :: int(parts)]:
    method = method_of(name)
    state = random_state(method, network(name, method), PLAIN)
    one = results(name, mesh_of('one'), state)
    size = float(np.abs(one[1]).max())
    assert size > 1e-3, name
    rows = {'loss': one[0], 'largest': size, 'meshes': {}}
    for kind in MESHES:
      if kind not in meshes_of(name):
        continue
      loss, grads, ids, share = results(name, mesh_of(kind), state)
      rows['meshes'][kind] = {
        'loss': loss,
        'error': float(np.abs(grads - one[1]).max()),
        'same': ids == one[2],
        'share': share,
      }
    result[name] = rows
    jax.clear_caches()
  print('RESULT', json.dumps(result))


if __name__ == '__main__':
  main(*sys.argv[1:])
