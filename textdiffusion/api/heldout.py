"""The held-out split, evaluated: for the training loop and by itself."""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from textdiffusion.config import Config
from textdiffusion.data.pipeline import Data
from textdiffusion.evals.baselines import token_baselines
from textdiffusion.evals.likelihood import evaluate, token_nats
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.training.mesh import put_whole, replicated
from textdiffusion.training.state import TrainState


def evaluator(
  config: Config, data: Data, method: Any, network: Any, mesh: Mesh
) -> Callable[..., dict[str, Any]]:
  """Compiles what was trained -> the report of `evals.likelihood`."""
  settings = config.evaluation
  totals = jax.jit(
    token_nats(method, network, settings), out_shardings=replicated(mesh)
  )

  def report(trained: Any) -> dict[str, Any]:
    return evaluate(
      method,
      network,
      trained,
      settings.batches(data.heldout),
      data.tokenizer.byte_lengths,
      settings,
      config.data.protocol(),
      lambda batch: put_whole(mesh, batch),
      totals,
      data.tokenizer.vocab.pad_id,
    ) | {'heldout_rows': len(data.heldout)}

  return report


def baselines(config: Config, data: Data) -> dict[str, Any]:
  """A unigram and a bigram of the same tokens, on the rows of `evaluator`."""
  batches = config.evaluation.batches(data.heldout)
  return token_baselines(data.train, batches, data.tokenizer)


def truth(config: Config, data: Data, result: dict[str, Any]) -> dict[str, Any]:
  """-log p of a report's documents under a known law, which a bound exceeds but
  for chance. Empty where unmodelled padding gives the network the length."""
  log_prob = data.source.log_prob
  is_causal = isinstance(config.method, Autoregressive)
  has_length = not (is_causal or config.data.model_padding)
  if log_prob is None or config.data.rows != 'document' or has_length:
    return {}
  chosen = set(config.evaluation.chosen(len(data.heldout)).tolist())
  texts = (t for i, t in enumerate(data.texts('heldout')) if i in chosen)
  nats = -sum(map(log_prob, texts)) / result['tokens']
  return {
    'true_nats_per_token': nats,
    'gap_nats_per_token': result['nats_per_token'] - nats,
  }


def hook(
  config: Config, data: Data, method: Any, network: Any, mesh: Mesh
) -> Callable[[TrainState], dict[str, float]] | None:
  """What the training loop logs; None where there is nothing to evaluate."""
  if not len(data.heldout) or method.evaluator.estimand != 'nelbo':
    return None
  report = evaluator(config, data, method, network, mesh)
  names = ('bits_per_byte', 'bits_per_byte_se', 'nats_per_token')

  def figures(state: TrainState) -> dict[str, float]:
    result = report(state.averaged)
    return {name: result[name] or math.nan for name in names}

  return figures
