"""Measures one training step of every discrete method, relative to MDLM's.

All methods use the same network, with adaLN of the time even though masked
diffusion does not need it, so that the ratio depends only on corruption and
loss. Steps of a method and of MDLM alternate in one process, and each pair
gives one ratio.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import common
from textdiffusion.core.types import Vocab
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.methods.dfm import DFM
from textdiffusion.methods.duo import Duo
from textdiffusion.methods.gidd import GIDD
from textdiffusion.methods.md4 import MD4
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import MethodConfig, build_network
from textdiffusion.methods.radd import RADD
from textdiffusion.methods.sedd import SEDD
from textdiffusion.methods.udlm import UDLM
from textdiffusion.methods.xdlm import XDLM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.state import TrainConfig, init_state
from textdiffusion.training.step import make_train_step

# Add a line for a new method.
METHODS: dict[str, MethodConfig] = {
  'md4': MD4(),
  'radd': RADD('k_DCE'),
  'sedd': SEDD(),
  'sedd_uniform': SEDD('uniform'),
  'udlm': UDLM(),
  'duo': Duo(),
  'gidd': GIDD(),
  'xdlm': XDLM(),
  'dfm': DFM(),
  'dfm_uniform': DFM('uniform'),
  'd3pm_absorbing': D3PM('absorbing'),
  'd3pm_uniform': D3PM('uniform'),
}
# Name: states, rows of 128 tokens, layers of width 256, pairs of steps;
# `pieces` is near the runs of benchmarks.discrete_methods.
SIZES = {
  'bytes': (257, 16, 6, 15),
  'pieces': (1025, 16, 4, 15),
  'words': (32_769, 8, 2, 7),
}


def stepper(
  config: MethodConfig, states: int, rows: int, layers: int
) -> Callable[[], Any]:
  """Returns a function that runs one more training step of a method.

  Args:
    config: the method.
    states: size of the vocabulary.
    rows: rows in a batch.
    layers: layers of the network.
  """
  train = TrainConfig()
  method = config.build(Vocab(states, mask_id=states - 1, bos_id=0, eos_id=1))
  model = TransformerConfig(
    num_layers=layers, d_model=256, num_heads=8, time='adaln'
  )
  network = build_network(method, model)
  optimizer = build_optimizer(train.optimizer, train.steps)
  state = init_state(method, network, optimizer, jax.random.key(0))
  shape = (rows, common.LENGTH)
  batch = {
    'ids': np.random.default_rng(0).integers(0, states - 1, shape, np.int32),
    'segments': np.ones(shape, np.int32),
    'positions': np.tile(np.arange(shape[1], dtype=np.int32), (rows, 1)),
    'rows': np.arange(rows, dtype=np.int32),
  }
  batch = jax.device_put(batch)
  step = jax.jit(
    make_train_step(method, network, optimizer, train), donate_argnums=0
  )

  def run() -> Any:
    nonlocal state
    state, metrics = step(state, batch)
    return metrics

  common.seconds(run)  # Compiles.
  return run


def ratios(
  names: list[str], states: int, rows: int, layers: int, pairs: int
) -> dict[str, float]:
  """Returns the median seconds of an MDLM step, and of others relative to it.

  Args:
    names: methods to measure.
    states: size of the vocabulary.
    rows: rows in a batch.
    layers: layers of the network.
    pairs: number of pairs of steps.
  """
  masked = stepper(MDLM(), states, rows, layers)
  figures, seconds = {}, []
  for name in names:
    run, times = stepper(METHODS[name], states, rows, layers), []
    before = common.seconds(masked)
    for _ in range(pairs):
      spent, after = common.seconds(run), common.seconds(masked)
      times.append(2 * spent / (before + after))
      seconds.append(after)
      before = after
    figures[name] = statistics.median(times)
  return {'mdlm_seconds': statistics.median(seconds), **figures}


def measure(sizes: list[str], methods: list[str]) -> dict[str, object]:
  figures = {}
  for size in sizes:
    states, rows, layers, pairs = SIZES[size]
    name = f'{size} V={states - 1} L={common.LENGTH} B={rows} layers={layers}'
    figures[name] = ratios(methods, states, rows, layers, pairs)
  return figures


if __name__ == '__main__':
  common.main('discrete', measure, {'sizes': SIZES, 'methods': METHODS})
