"""Compiles a training step for eight devices, each axis of the mesh of two but
`sequence`, and prints as JSON what it sends and how its parameters lie.

python -m tests.multi_device.collectives_child
"""

import json

import jax

from tests.methods.test_methods import CONFIGS
from textdiffusion.aot.hlo import collectives
from textdiffusion.core.types import Vocab
from textdiffusion.methods.method import build_network
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.mesh import MeshConfig, make_mesh
from textdiffusion.training.optim import OptimizerConfig, build_optimizer
from textdiffusion.training.state import TrainConfig
from textdiffusion.training.step import jit_train_step

# Sizes that no other dimension has, so that a shape names what is sent.
VOCAB, ROWS, LENGTH, WIDTH, HIDDEN = 44, 8, 6, 32, 80
CASES = {
  'plain': {},
  'chunks': {'loss_chunk': 3},
  'tied': {'tied': True},
}


def report(settings):
  config = TransformerConfig(
    num_layers=1, d_model=WIDTH, num_heads=2, d_ff=HIDDEN, **settings
  )
  method = CONFIGS['mdlm'].build(Vocab(VOCAB, mask_id=VOCAB - 1))
  network = build_network(method, config)
  train = TrainConfig(steps=1, optimizer=OptimizerConfig())
  optimizer = build_optimizer(train.optimizer, 1)
  mesh = make_mesh(MeshConfig(2, 2, 2, 1))
  whole = jax.ShapeDtypeStruct((ROWS, LENGTH), 'int32')
  row = jax.ShapeDtypeStruct((ROWS,), 'int32')
  batch = {name: whole for name in ('ids', 'segments', 'positions')}
  batch |= {'rows': row, 'stop': row}
  split = jax.NamedSharding(mesh, jax.P(('data', 'fsdp')))
  batch = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=split), batch
  )
  with jax.set_mesh(mesh):
    placed = jit_train_step(method, network, optimizer, train, mesh)
    text = placed.step.lower(placed.state, batch).compile().as_text()
  return {
    'collectives': [
      {'kind': one.kind, 'shapes': one.shapes, 'where': one.where}
      for one in collectives(text)
    ],
    'shards': {
      jax.tree_util.keystr(path, simple=True, separator='/'): [
        leaf.shape,
        leaf.sharding.shard_shape(leaf.shape),
      ]
      for path, leaf in jax.tree_util.tree_leaves_with_path(placed.state.params)
    },
  }


def main() -> None:
  print('RESULT', json.dumps({k: report(v) for k, v in CASES.items()}))


if __name__ == '__main__':
  main()
