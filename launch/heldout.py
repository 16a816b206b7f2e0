"""The held-out split, evaluated: for the training loop and by itself."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from textdiffusion.config import Config
from textdiffusion.data.pipeline import Data, eval_batches
from textdiffusion.evals.likelihood import evaluate, row_totals
from textdiffusion.training.mesh import put_whole, replicated


def evaluator(
  config: Config, data: Data, method: Any, denoiser: Any, mesh: Mesh
) -> Callable[..., dict[str, Any]]:
  """(parameters, what the method remembers) -> the report of
  `evals.likelihood`, compiled once."""
  totals = jax.jit(
    row_totals(method, denoiser, config.evaluate),
    out_shardings=replicated(mesh),
  )

  def report(params: Any, method_state: Any = ()) -> dict[str, Any]:
    settings = config.evaluate
    return evaluate(
      method,
      denoiser,
      params,
      eval_batches(data.heldout, settings.batch_size, settings.rows),
      data.tokenizer.byte_lengths,
      settings,
      config.data.protocol(),
      lambda batch: put_whole(mesh, batch),
      totals,
      data.tokenizer.vocab.pad_id,
      method_state,
    )

  return report


def truth(config: Config, data: Data, result: dict[str, Any]) -> dict[str, Any]:
  """What the law of the data says of the rows of a report, where it is known:
  no bound on whole documents can be below it but by chance. Nothing where a
  network is told the length by the padding it does not see."""
  log_prob = data.source.log_prob
  is_told = config.model.attend != 'causal' and not config.data.model_padding
  if log_prob is None or config.data.rows != 'document' or is_told:
    return {}
  texts = itertools.islice(data.texts('heldout'), result['rows'])
  nats = -sum(map(log_prob, texts)) / result['tokens']
  return {
    'true_nats_per_token': nats,
    'gap_nats_per_token': result['nats_per_token'] - nats,
  }


def hook(
  config: Config, data: Data, method: Any, denoiser: Any, mesh: Mesh
) -> Callable[[Any, int], dict[str, float]] | None:
  """What the training loop logs; None where there is nothing to evaluate."""
  if not len(data.heldout) or method.evaluator.estimand != 'nelbo':
    return None
  report = evaluator(config, data, method, denoiser, mesh)
  names = ('bits_per_byte', 'bits_per_byte_se', 'nats_per_token')

  def figures(state: Any, step: int) -> dict[str, float]:
    del step
    result = report(state.ema, state.method_state)
    return {name: result[name] or math.nan for name in names}

  return figures
