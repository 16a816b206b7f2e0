"""A run small enough for many tests."""

import dataclasses

import jax
import numpy as np

from textdiffusion.core.types import Vocab
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import build_network
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.loop import Periodic, train
from textdiffusion.training.mesh import MeshConfig, make_mesh
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig

MODEL = TransformerConfig(num_layers=2, d_model=16, num_heads=2, d_ff=32)
CONFIG = TrainConfig(
  steps=6,
  optimizer=OptimizerConfig(peak_lr=1e-2, warmup_steps=2),
  ema=0.9,
  log_every=1,
  eval_every=100,
  checkpoint_every=3,
)
METHOD = MDLM().build(Vocab(12, mask_id=11))
NETWORK = build_network(METHOD, MODEL)
ROWS, LENGTH = 8, 6


def batch(index=0, rows=ROWS):
  ids = np.random.default_rng(index).integers(0, 11, (rows, LENGTH), np.int32)
  segments = np.ones_like(ids)
  segments[1, 4:] = 0
  positions = np.tile(np.arange(LENGTH, dtype=np.int32), (rows, 1))
  return {
    'ids': ids,
    'segments': segments,
    'positions': positions,
    'rows': np.arange(rows, dtype=np.int32),
  }


class Batches:
  """An endless iterator with a state, as the data pipeline's."""

  def __init__(self, change=lambda index, batch: batch):
    self.index, self.change = 0, change

  def __next__(self):
    self.index += 1
    return self.change(self.index, batch(self.index))

  def get_state(self):
    return {'next_index': self.index}

  def set_state(self, state):
    self.index = state['next_index']


def periodic(settings):
  """Takes `evaluate`, a function of state and step, out of the settings of a
  run and returns the argument of the loop."""
  evaluate = settings.pop('evaluate', None)
  if evaluate is None:
    return {}
  every = settings.get('eval_every', CONFIG.eval_every)
  run = lambda state: (evaluate(state, int(state.step)), '')
  return {'evaluations': [Periodic(every, run)]}


def run(batches=None, mesh=None, **settings):
  """Trains; `workdir`, `run`, `evaluate` go to the loop, the rest to CONFIG."""
  kept = {
    name: settings.pop(name) for name in ('workdir', 'run') if name in settings
  } | periodic(settings)
  return train(
    METHOD,
    NETWORK,
    Batches() if batches is None else batches,
    dataclasses.replace(CONFIG, **settings),
    mesh or make_mesh(MeshConfig(), jax.devices()[:1]),
    **kept,
  )


def same(a, b):
  """Whether two trees are equal to the bit."""
  equal = jax.tree.map(lambda x, y: bool((np.asarray(x) == y).all()), a, b)
  return all(jax.tree.leaves(equal))
