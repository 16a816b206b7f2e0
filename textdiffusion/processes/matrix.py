"""D3PM with its matrices written out: small vocabularies, any kernel.

Austin et al. 2021, appendix A.2. T + T + 1 matrices [K, K] are kept; for text
of many states see `rank_one`, `gaussian` and `neighbors`, which keep none.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import Array, Time
from textdiffusion.processes.grid import GridProcess, identity, safe_log


@pytree
class Matrix(GridProcess):
  """log_kernels: [T, K, K], [i, y, x] = log q(x_{i+1} = y | x_i = x).
  log_totals: [T + 1, K, K], of their products. log_prior: [K].

  The times of a row are 0 (given tokens) or all the same.
  """

  log_kernels: Array
  log_totals: Array
  log_prior: Array
  num_states: int = static()  # ty: ignore[incompatible-attribute-override]
  num_steps: int = static()  # ty: ignore[incompatible-attribute-override]
  mask_id: int | None = static()  # ty: ignore[incompatible-attribute-override]

  def prior(self) -> Categorical:
    """[K], as given at construction."""
    return Categorical(self.log_prior)

  def marginal(self, x0: Array, t: Time) -> Categorical:
    """ids [L] or logits [L, K] -> [L, K]."""
    i = self.place(t)
    total = self.log_totals[_shared(i)]
    clean = self.clean_log_probs(x0)
    if jnp.issubdtype(x0.dtype, jnp.integer):
      logits = _rows(total.swapaxes(-1, -2), x0)
    else:
      probs = jnp.einsum(
        '...lx,...yx->...ly',
        jnp.exp(clean),
        jnp.exp(total),
        precision='highest',
      )
      logits = safe_log(probs)
    return Categorical(identity(clean, logits, i == 0))

  def column(self, z: Array, s: Time, t: Time) -> Array:
    """log q_{t|s}(z | y): [L] -> [L, K]; one product per further step."""
    first, last = self.place(s), self.place(t)
    gap, last_shared = _shared(last) - _shared(first), _shared(last)
    row = _rows(self.log_kernels[jnp.maximum(last_shared - 1, 0)], z)

    def back(j: Array, row: Array) -> Array:
      kernel = jnp.exp(self.log_kernels[jnp.maximum(last_shared - 1 - j, 0)])
      top = row.max(-1, keepdims=True)
      product = jnp.matmul(jnp.exp(row - top), kernel, precision='highest')
      return jnp.where((j < gap)[..., None, None], safe_log(product) + top, row)

    row = jax.lax.fori_loop(1, jnp.maximum(gap.max(), 1), back, row)
    return identity(z, row, first == last)

  def likelihood(self, z: Array, t: Time) -> Array:
    """log q_t(z | x) of every clean x, [L] -> [L, K]: no loop."""
    i = self.place(t)
    return identity(z, _rows(self.log_totals[_shared(i)], z), i == 0)


def _shared(index: Array) -> Array:
  """The one time of a row, beside zeros: [] or [..., 1 or L] -> [...]."""
  return index if index.ndim == 0 else index.max(-1)


def _rows(matrix: Array, ids: Array) -> Array:
  """Rows of [K, K], or of one matrix a batch row: [..., L] -> [..., L, K]."""
  if matrix.ndim == 2:
    return matrix[ids]
  return jnp.take_along_axis(matrix, ids[..., None], axis=-2)


def from_kernels(
  kernels: np.ndarray, prior: Any = None, mask_id: int | None = None
) -> Matrix:
  """[T, K, K] probabilities, columns x_i, and [K] -> the process.

  Products are taken in float64. prior: uniform over the tokens if absent.
  """
  kernels = np.asarray(kernels, np.float64)
  size = kernels.shape[-1]
  totals = [np.eye(size)]
  for kernel in kernels:
    totals.append(kernel @ totals[-1])
  if prior is None:
    prior = np.where(np.arange(size) == mask_id, 0.0, 1.0)
  with np.errstate(divide='ignore'):
    logs = [
      jnp.asarray(np.log(x))
      for x in (kernels, np.stack(totals), np.asarray(prior, np.float64))
    ]
  return Matrix(*logs, size, len(kernels), mask_id)


def beside_mask(kernels: np.ndarray, mask_id: int | None) -> np.ndarray:
  """[T, V, V] -> [T, V + 1, V + 1] with a mask that stays as it is."""
  if mask_id is None:
    return kernels
  steps, size, _ = kernels.shape
  out = np.zeros((steps, size + 1, size + 1))
  tokens = np.delete(np.arange(size + 1), mask_id)
  out[:, tokens[:, None], tokens[None]] = kernels
  out[:, mask_id, mask_id] = 1.0
  return out


def mixed_kernels(base: np.ndarray, betas: np.ndarray) -> np.ndarray:
  """(1 - beta) I + beta M for each beta: [V, V], [T] -> [T, V, V]."""
  beta = np.asarray(betas, np.float64)[:, None, None]
  return (1 - beta) * np.eye(len(base)) + beta * np.asarray(base, np.float64)


def gaussian_kernels(size: int, betas: np.ndarray) -> np.ndarray:
  """Discretised Gaussians over token order, A.2.4: [T, V, V].

  exp(-4 n^2 / ((V - 1)^2 beta)) at distance n, over its sum for |n| < V; a
  step out of the vocabulary stays where it is, so columns sum to 1. The
  official code has distances times V / (V - 1): `lag_kernels` with a stretch.
  """
  return lag_kernels(size, betas, 1.0)


def lag_kernels(size: int, betas: np.ndarray, stretch: float) -> np.ndarray:
  """`gaussian_kernels` with distances times `stretch`."""
  lags = np.arange(-(size - 1), size)
  exponent = -((2 * stretch * lags / (size - 1)) ** 2)
  logits = exponent / np.asarray(betas, np.float64)[:, None]
  weights = np.exp(logits - logits.max(1, keepdims=True))
  weights /= weights.sum(1, keepdims=True)
  distance = np.abs(np.arange(size)[:, None] - np.arange(size))
  kernels = weights[:, size - 1 + distance]
  diagonal = np.arange(size)
  kernels[:, diagonal, diagonal] = 0.0
  kernels[:, diagonal, diagonal] = 1 - kernels.sum(1)
  return kernels


def band_matrix(size: int, width: int) -> np.ndarray:
  """Even weights on the `width` nearest tokens, itself included, A.2.3.

  Columns are normalised, so that near the ends it is no symmetric matrix and
  the uniform law is not quite stationary.
  """
  distance = np.abs(np.arange(size)[:, None] - np.arange(size))
  band = (distance <= width // 2).astype(np.float64)
  return band / band.sum(0)


def sinkhorn(adjacency: np.ndarray, iterations: int) -> np.ndarray:
  """A doubly stochastic matrix by scaling rows, then columns (A.2.5)."""
  matrix = np.asarray(adjacency, np.float64)
  for _ in range(iterations):
    matrix = matrix / matrix.sum(1, keepdims=True)
    matrix = matrix / matrix.sum(0, keepdims=True)
  return matrix
