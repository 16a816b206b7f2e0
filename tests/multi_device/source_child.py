"""SeqDiffuSeq in a process of its own, with its encoder, self-conditioning and
a schedule that is fitted on the way, on one mesh after another; prints JSON for
each.

python -m tests.multi_device.source_child MESH ...
"""

import dataclasses
import itertools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np

from tests.multi_device.child import mesh_of
from textdiffusion.core.types import (
  Vocab,
)
from textdiffusion.methods.method import build_network
from textdiffusion.methods.seqdiffuseq import SeqDiffuSeq
from textdiffusion.model import bind
from textdiffusion.nn.network import View
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.samplers.base import generate
from textdiffusion.samplers.prompts import blank
from textdiffusion.training.loop import train
from textdiffusion.training.state import TrainConfig

ROWS, LENGTH = 8, 6
VOCAB = Vocab(16, mask_id=15, bos_id=14, eos_id=13, pad_id=12)


def main(*meshes: str):
  for text in meshes:
    run(mesh_of(text))


def run(mesh):
  method = SeqDiffuSeq(
    num_steps=20, size=4, std=1.0, length=LENGTH, bins=5, refit_every=2,
    refit_from=2,
  ).build(VOCAB)  # fmt: skip
  config = TransformerConfig(
    num_layers=1, d_model=16, num_heads=2, time='adaln', encoder_layers=1
  )
  network = build_network(method, config)
  draw = np.random.default_rng(0)
  ids, source = draw.integers(0, 12, (2, ROWS, LENGTH), dtype=np.int32)
  batch = {
    'ids': ids,
    'segments': np.ones_like(ids),
    'positions': np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
    'rows': np.arange(ROWS, dtype=np.int32),
    'source': source,
    'source_segments': (draw.random(source.shape) < 0.8).astype(np.int32),
  }
  settings = TrainConfig(steps=5, log_every=1, eval_every=0)
  state = train(
    method,
    network,
    itertools.repeat(batch),
    settings,
    mesh,
  )

  def sample(trained):
    memory = network.encode(trained.params, jnp.asarray(source), None)
    model = bind(method, network, trained, View(memory=memory))
    sampler = dataclasses.replace(method.sampler, steps=6, grid='uniform')
    return generate(model, blank(ROWS, LENGTH), jax.random.key(1), sampler)

  ids = jax.jit(sample)(state.averaged).ids
  size = lambda tree: sum(float((x**2).sum()) for x in jax.tree.leaves(tree))
  result = {
    'devices': mesh.size,
    'params': size(state.params),
    'remembered': size(state.method_state),
    'ids': jax.device_get(ids).tolist(),
  }
  print('RESULT', json.dumps(result), flush=True)


if __name__ == '__main__':
  main(*sys.argv[1:])
