"""Generative perplexity of samples under a judge model, with their entropy.

Repetitive text has a low generative perplexity, and the figure depends on the
judge. So a report always holds the name of the judge, the entropy of the
samples, and both figures for real text.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from textdiffusion.core.types import Array, Batch, UserError
from textdiffusion.evals.statistics import Estimate, cluster_ratio, cluster_sums
from textdiffusion.methods.method import Method
from textdiffusion.model import Trained, bind
from textdiffusion.nn.network import Network
from textdiffusion.objectives.base import Models


def unigram_entropy(
  ids: Int[np.ndarray, 'B L'],
) -> Float[np.ndarray, ' B']:
  """Returns the entropy of the token frequencies in each row, in nats."""
  rows = []
  for row in np.asarray(ids):
    _, counts = np.unique(row, return_counts=True)
    share = counts / counts.sum()
    rows.append(-(share * np.log(share)).sum())
  return np.asarray(rows)


def judging(
  method: Method, network: Network
) -> Callable[[Trained, Int[Array, 'B L']], Float[Array, ' B']]:
  """Returns the compiled function (trained, ids [B, L]) -> -log p [B] in nats.

  A diffusion model cannot be the judge, because the gap of its bound would be
  part of the score.

  Raises:
    UserError: the judge has no exact likelihood.
  """
  if method.process is not None:
    raise UserError(
      'the judge of generative perplexity must be autoregressive: name such a '
      'checkpoint'
    )

  def nats(trained: Trained, ids: Int[Array, 'B L']) -> Float[Array, ' B']:
    ones = jnp.ones_like(ids)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
    rows = jnp.arange(len(ids))
    whole = Batch(ids, ones, positions, rows, jnp.full(len(ids), 0.5))
    models = Models(bind(method, network, trained))
    return method.objective(models, jax.random.key(0), whole).nats.sum(-1)

  return jax.jit(nats)


def judged(
  nats: Callable[[Trained, Int[Array, 'B L']], Float[Array, ' B']],
  trained: Trained,
  ids: Int[Array | np.ndarray, 'B L'],
  batch: int = 16,
) -> Float[np.ndarray, ' B']:
  """Returns -log p of each row in nats [B] under an autoregressive judge.

  Args:
    nats: of the judge, from `judging`; it must use the same tokenizer.
    trained: parameters of the judge.
    ids: [B, L] rows to score.
    batch: rows per call.
  """
  rows = jnp.asarray(ids)
  rest = -len(rows) % batch
  filled = jnp.concatenate([rows, jnp.repeat(rows[-1:], rest, 0)])
  parts = [
    nats(trained, filled[i : i + batch]) for i in range(0, len(filled), batch)
  ]
  return np.concatenate(jax.device_get(parts))[: len(rows)]


def report(
  nats: Float[np.ndarray, ' B'],
  ids: Int[np.ndarray, 'B L'],
  judge: str,
  real_nats: Float[np.ndarray, ' R'],
  real_ids: Int[np.ndarray, 'R N'],
  real_documents: Int[np.ndarray, 'R N'] | None = None,
) -> dict[str, Any]:
  """Reports generative perplexity and entropy of samples and of real text.

  Args:
    nats: -log p of the samples, from `judged`.
    ids: the samples.
    judge: name of the judge.
    real_nats: -log p of held-out rows of the same length.
    real_ids: the held-out rows.
    real_documents: the document of each token; if None, the rows count
      as independent.

  Returns:
    Perplexity (exp of the mean nats per token) and mean unigram entropy per row
    in nats, for samples and real text, with standard errors over samples and
    over documents; and the name of the judge. Errors that one sample or one
    document cannot determine are None.
  """
  ids, real_ids = np.asarray(ids), np.asarray(real_ids)
  lengths = np.full(len(ids), ids.shape[1])
  figures = {
    **_perplexity('generative_', cluster_ratio(np.asarray(nats), lengths)),
    **_entropy('', unigram_entropy(ids)),
    **_perplexity(
      'real_', _real_ratio(real_nats, real_ids.shape[1], real_documents)
    ),
    **_entropy('real_', unigram_entropy(real_ids)),
  }
  return {
    **{k: None if v != v else v for k, v in figures.items()},
    'judge': judge,
    'samples': len(ids),
    'real_rows': len(real_ids),
  }


def _real_ratio(
  nats: np.ndarray, length: int, documents: np.ndarray | None
) -> Estimate:
  """Returns nats per token of real rows, with documents as clusters.

  The judge scores whole rows, so a row with several documents counts for the
  first of them.
  """
  labels = np.arange(len(nats)) if documents is None else documents[:, 0]
  values = np.stack([np.asarray(nats, np.float64), np.full(len(nats), length)])
  return cluster_ratio(*cluster_sums(labels, values))


def _perplexity(name: str, per_token: Estimate) -> dict[str, float]:
  value = float(np.exp(per_token.value))
  return {
    f'{name}nats_per_token': per_token.value,
    f'{name}nats_per_token_se': per_token.se,
    f'{name}perplexity': value,
    f'{name}perplexity_se': value * per_token.se,
  }


def _entropy(name: str, rows: np.ndarray) -> dict[str, float]:
  mean = cluster_ratio(rows, np.ones(len(rows)))
  return {f'{name}entropy': mean.value, f'{name}entropy_se': mean.se}
