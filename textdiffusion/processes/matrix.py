"""D3PM with dense transition matrices: any kernel, for small vocabularies.

Austin et al. 2021, appendix A.2. It stores 2 T + 1 matrices [K, K]. For large
vocabularies use `rank_one`, `gaussian` and `neighbors`, which store none.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import match_ranks, pytree, static
from textdiffusion.core.types import Array, Time
from textdiffusion.processes.grid import GridProcess, identity, safe_log


@pytree
class Matrix(GridProcess):
  """A process given by one matrix per step.

  All times of a row must be equal, except those that are 0 (given tokens).

  Attributes:
    log_kernels: [T, K, K] with [i, y, x] = log q(x_{i+1} = y | x_i = x).
    log_totals: [T + 1, K, K] logs of the products of the first i kernels.
    log_prior: [K] logs of the prior.
    num_states: number of states of a token, K.
    num_steps: number of steps, T.
    mask_id: id of the mask, or None.
  """

  log_kernels: Float[Array, 'T K K']
  log_totals: Float[Array, 'T+1 K K']
  log_prior: Float[Array, ' K']
  num_states: int = static()  # ty: ignore[incompatible-attribute-override]
  num_steps: int = static()  # ty: ignore[incompatible-attribute-override]
  mask_id: int | None = static()  # ty: ignore[incompatible-attribute-override]

  def prior(self) -> Categorical:
    """Returns the prior given at construction, [K]."""
    return Categorical(self.log_prior)

  def marginal(
    self, x0: Int[Array, '...'] | Float[Array, '... K'], t: Time
  ) -> Categorical:
    """Returns q_t(. | x0), [L, K], for ids [L] or clean logits [L, K]."""
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

  def column(
    self, z: Int[Array, '... L'], s: Time, t: Time
  ) -> Float[Array, '... L K']:
    """Returns log q_{t|s}(z | y) for every y, [L, K].

    It takes one matrix product per step after the first.
    """
    first, last = self.place(s), self.place(t)
    gap, last_shared = _shared(last) - _shared(first), _shared(last)
    row = _rows(self.log_kernels[jnp.maximum(last_shared - 1, 0)], z)

    def back(
      j: Int[Array, ''], row: Float[Array, '... L K']
    ) -> Float[Array, '... L K']:
      kernel = jnp.exp(self.log_kernels[jnp.maximum(last_shared - 1 - j, 0)])
      top = row.max(-1, keepdims=True)
      product = jnp.matmul(jnp.exp(row - top), kernel, precision='highest')
      inside, product, row = match_ranks(
        (j < gap)[..., None, None], safe_log(product) + top, row
      )
      return jnp.where(inside, product, row)

    row = jax.lax.fori_loop(1, jnp.maximum(gap.max(), 1), back, row)
    first, last = match_ranks(first, last)
    return identity(z, row, first == last)

  def likelihood(
    self, z: Int[Array, '... L'], t: Time
  ) -> Float[Array, '... L K']:
    """Returns log q_t(z | x) for every clean x, [L, K], without a loop."""
    i = self.place(t)
    return identity(z, _rows(self.log_totals[_shared(i)], z), i == 0)


def _shared(index: Int[Array, '...']) -> Int[Array, '...']:
  """Returns the time index that a row shares, ignoring zeros: [...].

  The indices are [] or [..., 1 or L].
  """
  return index if index.ndim == 0 else index.max(-1)


def _rows(
  matrix: Float[Array, '... K K'], ids: Int[Array, '...']
) -> Float[Array, '... K']:
  """Returns rows [..., L, K] of one matrix [K, K] or one per batch row."""
  if matrix.ndim == 2:
    return matrix[ids]
  return jnp.take_along_axis(matrix, ids[..., None], axis=-2)


def from_kernels(
  kernels: Float[np.ndarray, 'T K K'],
  prior: Float[np.ndarray, ' K'] | None = None,
  mask_id: int | None = None,
) -> Matrix:
  """Builds the process from its matrices, with products in float64.

  Args:
    kernels: [T, K, K] probabilities; each column belongs to a state x_i.
    prior: [K] probabilities; None for uniform over the tokens.
    mask_id: id of the mask, or None.
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


def beside_mask(
  kernels: Float[np.ndarray, 'T V V'], mask_id: int | None
) -> Float[np.ndarray, 'T K K']:
  """Adds a mask that stays as it is to kernels [T, V, V].

  Args:
    kernels: probabilities over the tokens.
    mask_id: id that the mask gets; None adds no mask.

  Returns:
    [T, V + 1, V + 1] kernels.
  """
  if mask_id is None:
    return kernels
  steps, size, _ = kernels.shape
  out = np.zeros((steps, size + 1, size + 1))
  tokens = np.delete(np.arange(size + 1), mask_id)
  out[:, tokens[:, None], tokens[None]] = kernels
  out[:, mask_id, mask_id] = 1.0
  return out


def mixed_kernels(
  base: Float[np.ndarray, 'V V'], betas: Float[np.ndarray, ' T']
) -> Float[np.ndarray, 'T V V']:
  """Returns (1 - beta) I + beta M, [T, V, V], for M = base and [T] betas."""
  beta = np.asarray(betas, np.float64)[:, None, None]
  return (1 - beta) * np.eye(len(base)) + beta * np.asarray(base, np.float64)


def gaussian_kernels(
  size: int, betas: Float[np.ndarray, ' T']
) -> Float[np.ndarray, 'T {size} {size}']:
  """Returns discretised Gaussians over the order of ids (A.2.4): [T, V, V].

  The probability of distance n is exp(-4 n^2 / ((V - 1)^2 beta)), divided by
  its sum over |n| < V. A step that would leave the vocabulary is not taken, so
  columns sum to 1. The official code multiplies distances by V / (V - 1), which
  is `lag_kernels` with that stretch.
  """
  return lag_kernels(size, betas, 1.0)


def lag_kernels(
  size: int, betas: Float[np.ndarray, ' T'], stretch: float
) -> Float[np.ndarray, 'T {size} {size}']:
  """Returns discretised Gaussians of stretched distances, [T, V, V].

  Args:
    size: number of tokens, V.
    betas: [T] betas.
    stretch: factor of the distances; 1 is `gaussian_kernels`.
  """
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


def band_matrix(size: int, width: int) -> Float[np.ndarray, '{size} {size}']:
  """Returns equal weights on the `width` nearest tokens (A.2.3): [V, V].

  The token itself is one of them. Columns are normalised, so the matrix is not
  symmetric near the ends, and the uniform distribution is only nearly
  stationary.
  """
  distance = np.abs(np.arange(size)[:, None] - np.arange(size))
  band = (distance <= width // 2).astype(np.float64)
  return band / band.sum(0)


def sinkhorn(
  adjacency: Shaped[np.ndarray, 'V V'], iterations: int
) -> Float[np.ndarray, 'V V']:
  """Makes a matrix doubly stochastic, scaling rows, then columns (A.2.5)."""
  matrix = np.asarray(adjacency, np.float64)
  for _ in range(iterations):
    matrix = matrix / matrix.sum(1, keepdims=True)
    matrix = matrix / matrix.sum(0, keepdims=True)
  return matrix
