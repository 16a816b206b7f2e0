"""Every kind of objective on every kind of mesh of eight devices, in a process
of its own: the loss and gradient of the true training step; prints JSON.

python -m tests.multi_device.layouts_child PART PARTS
"""

import json
import os
import sys

import jax
import numpy as np
import optax

from tests.methods.test_methods import CONFIGS, VOCAB
from textdiffusion.methods.method import build_network
from textdiffusion.model import Trained, bind
from textdiffusion.nn.network import BlockCausal
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.samplers.base import generate
from textdiffusion.samplers.options import with_options
from textdiffusion.samplers.prompts import blank
from textdiffusion.training.mesh import MeshConfig, make_mesh, put_batch
from textdiffusion.training.optim import Optimizer
from textdiffusion.training.state import TrainConfig, init_state
from textdiffusion.training.step import placed_step

ROWS, LENGTH = 8, 8
MESHES = {
  'one': MeshConfig(1),
  'data': MeshConfig(8),
  'fsdp': MeshConfig(1, 8),
  'tensor': MeshConfig(2, 2, 2),
  'sequence': MeshConfig(2, 1, 1, 4),
  'all': MeshConfig(1, 2, 2, 2),
}
# One of each objective, on networks that take the time and not.
METHODS = (
  *('mdlm', 'd3pm', 'dfm', 'duo', 'genmd4', 'udlm', 'gidd', 'sedd', 'radd'),
  *('autoregressive', 'flexmdm', 'edit-flows', 'diffusion_lm', 'cdcd'),
  *('flow_lm', 'plaid', 'ar_diffusion', 'diffusion_lm-bound'),
)
STRUCTURES = {'gidd': BlockCausal(4)}  # not what it does to GIDD, but to a mesh
SAMPLED = ('mdlm', 'autoregressive', 'diffusion_lm')
# 8 x data and 8 x fsdp for every method (continuous integration); else only
# where samples are compared: all have both axes in `tensor`, 2 x 2 x 2.
IS_WHOLE = os.environ.get('TEXTDIFFUSION_ALL_MESHES') == '1'
# Gradients as they are: what a step takes off the parameters.
PLAIN = Optimizer(optax.identity(), lambda step: 1.0)


def meshes_of(name):
  """Of those beside one device."""
  if name == 'mdlm':
    return set(MESHES) - {'one'}
  every = IS_WHOLE or name in SAMPLED
  return {'tensor', 'sequence', *(('data', 'fsdp') if every else ())}


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


def begun(name):
  """The state of a network that is not at its beginning, on the host: heads
  begin at zero, where gradients of what is before them vanish."""
  method = method_of(name)
  init = lambda key: init_state(method, network(name, method), PLAIN, key)
  state = jax.device_get(jax.jit(init)(jax.random.key(3)))
  moved = jax.tree.map(
    lambda x: (
      x + 0.1 * np.sin(np.arange(x.size, dtype=x.dtype)).reshape(x.shape)
    ),
    state.params,
  )
  return state._replace(params=moved)


def told(name, mesh, state):
  """Loss, gradient as one vector, ids of samples, share of a kernel."""
  method = method_of(name)
  net = network(name, method)
  config = TrainConfig(steps=1)
  before = state.params
  with jax.set_mesh(mesh):
    placed = placed_step(method, net, PLAIN, config, mesh)
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
        canvas, sampler = blank(ROWS, LENGTH), with_options(method.sampler, 4)
        return generate(model, canvas, jax.random.key(1), sampler).ids

      ids = np.asarray(
        jax.jit(sample)(Trained(moved, state.method_state))
      ).tolist()
    after, metrics = placed.step(state, put_batch(mesh, batch()))
  grads = jax.tree.map(lambda a, b: a - np.asarray(b), before, after.params)
  flat = np.concatenate([g.ravel() for g in jax.tree.leaves(grads)])
  return float(metrics['loss']), flat, ids, share


def main(part: str, parts: str) -> None:
  result = {}
  for name in METHODS[int(part) :: int(parts)]:
    state = begun(name)
    one = told(name, make_mesh(MESHES['one'], jax.devices()[:1]), state)
    size = float(np.abs(one[1]).max())
    assert size > 1e-3, name
    rows = {'loss': one[0], 'largest': size, 'meshes': {}}
    for kind, config in MESHES.items():
      if kind not in meshes_of(name):
        continue
      loss, grads, ids, share = told(name, make_mesh(config), state)
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
