"""How good samples are by a judge, beside how varied they are.

A low generative perplexity alone says little: dull, repeating text has one.
Always read it with the entropy.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.binding import bind
from textdiffusion.core.types import Array, Batch, Denoiser, PyTree, UserError
from textdiffusion.methods.method import Method


def unigram_entropy(ids: np.ndarray) -> np.ndarray:
  """[B, L] ids -> [B] nats: entropy of the token frequencies in each row."""
  rows = []
  for row in np.asarray(ids):
    _, counts = np.unique(row, return_counts=True)
    share = counts / counts.sum()
    rows.append(-(share * np.log(share)).sum())
  return np.asarray(rows)


def judged(
  method: Method,
  denoiser: Denoiser,
  params: PyTree,
  ids: Array | np.ndarray,
  batch: int = 16,
) -> np.ndarray:
  """-log p of each row under an exact judge, nats: [B, L] ids -> [B].

  Args:
    method, denoiser, params: the judge, an autoregressive model of the same
      tokenizer; a bound would mix its own gap into the score.
    batch: rows per call.

  Raises:
    UserError: the judge has no exact likelihood.
  """
  if method.process is not None:
    raise UserError(
      'the judge of generative perplexity must be autoregressive: name such a '
      'checkpoint'
    )

  @jax.jit
  def nats(params: PyTree, ids: Array) -> Array:
    ones = jnp.ones_like(ids)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
    rows = jnp.arange(len(ids))
    seen = Batch(ids, ones, positions, rows, jnp.full(len(ids), 0.5))
    model = bind(denoiser, params, method.head)
    return method.objective(model, jax.random.key(0), seen)[0].sum(-1)

  rows = jnp.asarray(ids)
  rest = -len(rows) % batch
  filled = jnp.concatenate([rows, jnp.repeat(rows[-1:], rest, 0)])
  parts = [
    nats(params, filled[i : i + batch]) for i in range(0, len(filled), batch)
  ]
  return np.concatenate(jax.device_get(parts))[: len(rows)]


def report(nats: np.ndarray, ids: np.ndarray) -> dict[str, Any]:
  """Generative perplexity, exp of the mean nats per token, with its standard
  error over rows, and the mean unigram entropy of a row in nats."""
  length = ids.shape[1]
  per_row = np.asarray(nats, np.float64) / length
  mean = float(per_row.mean())
  error = float(per_row.std(ddof=1) / math.sqrt(len(per_row)))
  entropy = unigram_entropy(ids)
  return {
    'generative_nats_per_token': mean,
    'generative_nats_per_token_se': error,
    'generative_perplexity': math.exp(mean),
    'entropy': float(entropy.mean()),
    'entropy_se': float(entropy.std(ddof=1) / math.sqrt(len(entropy))),
    'samples': len(ids),
  }
