"""Measures one MDLM training step: AdamW, clipping and EMA, in float32."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks import common
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import build_network
from textdiffusion.nn.transformer import flops_per_token
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.state import TrainConfig, init_state
from textdiffusion.training.step import make_train_step


def prepared() -> tuple[Callable[..., Any], Any, dict[str, Any]]:
  """Returns (jitted step that donates its state, state, batch)."""
  config = TrainConfig()
  method = MDLM().build(common.VOCAB)
  network = build_network(method, common.MODEL)
  optimizer = build_optimizer(config.optimizer, config.steps)
  state = init_state(method, network, optimizer, jax.random.key(0))
  shape = (common.BATCH, common.LENGTH)
  tokens = common.VOCAB.size - 1
  batch = {
    'ids': np.random.default_rng(0).integers(0, tokens, shape, np.int32),
    'segments': np.ones(shape, np.int32),
    'positions': np.tile(np.arange(shape[1], dtype=np.int32), (shape[0], 1)),
    'rows': np.arange(shape[0], dtype=np.int32),
  }
  step = make_train_step(method, network, optimizer, config)
  return jax.jit(step, donate_argnums=0), state, jax.device_put(batch)


def measure() -> dict[str, object]:
  step, state, batch = prepared()

  def run() -> object:
    nonlocal state
    state, metrics = step(state, batch)
    return metrics

  times, peak_flops = common.paired(run, rounds=15)
  tokens = common.BATCH * common.LENGTH
  flops = (
    3 * tokens * flops_per_token(common.MODEL, common.VOCAB.size, common.LENGTH)
  )
  return {
    'seconds_per_step': times,
    'tokens_per_s': tokens / times,
    'model_flops_per_step': flops,
    'matmul_flops_per_s': peak_flops / times,
    'fraction_of_matmul_peak': flops / peak_flops,
  }


if __name__ == '__main__':
  common.main('train_step', measure)
