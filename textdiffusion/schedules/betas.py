"""Discrete-time schedules: the noise beta_i of step i = 1 ... T, at t = i / T.

Betas are computed once, in NumPy float64. Each process interprets them (Austin
et al. 2021, section 3.1 and appendix A.2): as the probability of resampling a
token, the width of a Gaussian step, or the length of a random walk among
neighbours.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from textdiffusion.core.numerics import match_ranks, pytree, static
from textdiffusion.core.types import Array, Time, UserError
from textdiffusion.schedules.noise import NoiseLevel
from textdiffusion.schedules.times import place


class BetaSchedule(Protocol):
  """The contract of a discrete-time schedule: a frozen dataclass of options."""

  def betas(self, num_steps: int) -> Float[np.ndarray, ' {num_steps}']:
    """Returns float64 [T] betas in (0, 1]."""
    ...


@dataclasses.dataclass(frozen=True)
class InverseTime:
  """beta_i = 1 / (T - i + 1), so that alpha = 1 - t.

  Sohl-Dickstein et al. 2015; D3PM uses it for absorbing noise.
  """

  def betas(self, num_steps: int) -> Float[np.ndarray, ' {num_steps}']:
    return 1 / (num_steps - np.arange(num_steps, dtype=np.float64))


@dataclasses.dataclass(frozen=True)
class LinearBetas:
  """Betas in equal steps from beta_min up to, but not including, beta_max.

  Attributes:
    beta_min: the first beta.
    beta_max: upper limit of the betas.
  """

  beta_min: float = 1e-3
  beta_max: float = 0.1

  def __post_init__(self) -> None:
    if not 0 < self.beta_min <= self.beta_max <= 1:
      raise UserError(
        f'beta_min={self.beta_min}, beta_max={self.beta_max}: '
        'need 0 < beta_min <= beta_max <= 1'
      )

  def betas(self, num_steps: int) -> Float[np.ndarray, ' {num_steps}']:
    share = np.arange(num_steps, dtype=np.float64) / num_steps
    return self.beta_min + (self.beta_max - self.beta_min) * share


@dataclasses.dataclass(frozen=True)
class CosineBetas:
  """alpha = f(t) / f(0), f = cos(pi / 2 (t + s) / (1 + s)), s = 0.008.

  As in Nichol & Dhariwal 2021, but without their square. The last beta is 1;
  the official code clips it to 0.999.
  """

  def betas(self, num_steps: int) -> Float[np.ndarray, ' {num_steps}']:
    shifted = (np.arange(num_steps + 1) / num_steps + 0.008) / 1.008
    # The cosine as a sine of the complement, so that f is exactly 0 at t = 1.
    f = np.sin(np.pi / 2 * (1 - shifted))
    f[-1] = 0.0
    return 1 - f[1:] / f[:-1]


@dataclasses.dataclass(frozen=True)
class MutualInformation:
  """Each step removes 1 / T of the mutual information of x_t and x_0.

  Austin et al. 2021, appendix A.7. Tokens have the frequencies of the training
  split. For absorbing noise this is `InverseTime`, whatever the frequencies.
  """

  def exponents(
    self, frequencies: Float[np.ndarray, ' V'], num_steps: int
  ) -> Float[np.ndarray, ' {num_steps}+1']:
    """Returns [T + 1] cumulative -log alpha of uniform noise; the last is inf.

    Args:
      frequencies: [V] probabilities of the clean tokens.
      num_steps: number of steps, T.
    """
    return fit_exponents(
      lambda exponent: uniform_removal(exponent, frequencies), num_steps
    )

  def betas(self, num_steps: int) -> Float[np.ndarray, ' {num_steps}']:
    """Raises UserError, as only `exponents` are defined."""
    raise UserError(
      'the mutual information schedule is for uniform and absorbing noise: '
      'choose another method.schedule'
    )


Betas = InverseTime | LinearBetas | CosineBetas | MutualInformation


def uniform_removal(
  exponents: Float[np.ndarray, ' N'], frequencies: Float[np.ndarray, ' V']
) -> Float[np.ndarray, ' N']:
  """Computes 1 - I(x_t; x_0) / H(x_0), the information uniform noise removes.

  Args:
    exponents: [N] values of -log alpha.
    frequencies: [V] probabilities of the clean tokens.

  Returns:
    [N] shares, 0 at exponent 0 and 1 at infinity.

  Raises:
    UserError: the clean tokens have no entropy.
  """
  alpha = np.exp(-np.asarray(exponents, np.float64))[:, None]
  size = len(frequencies)
  other = -np.expm1(-np.asarray(exponents, np.float64))[:, None] / size
  given = _entropy(alpha + other)[:, 0] + (size - 1) * _entropy(other)[:, 0]
  after = _entropy(alpha * frequencies + other).sum(1)
  clean = _entropy(np.asarray(frequencies, np.float64)).sum()
  if clean <= 0:
    raise UserError(
      'the training split has one kind of token only: a mutual information '
      'schedule needs two'
    )
  return (clean + given - after) / clean


def matrix_removal(
  matrix: Float[np.ndarray, 'V V'], frequencies: Float[np.ndarray, ' V']
) -> float:
  """Computes 1 - I(x_t; x_0) / H(x_0), the information a transition removes.

  Args:
    matrix: [V, V] probabilities q(x_t | x_0); each column belongs to an x_0.
    frequencies: [V] probabilities of the clean tokens.
  """
  joint = matrix * frequencies
  clean = _entropy(np.asarray(frequencies, np.float64)).sum()
  return float((_entropy(joint).sum() - _entropy(joint.sum(1)).sum()) / clean)


def fit_exponents(
  removal: Callable[[Float[np.ndarray, ' N']], Float[np.ndarray, ' N']],
  num_steps: int,
  largest: float = 1e5,
) -> Float[np.ndarray, ' {num_steps}+1']:
  """Finds the exponents at which `removal` is i / T, by bisection.

  The official code interpolates a table of 128 values of the function.

  Args:
    removal: increasing function [N] -> [N].
    num_steps: number of steps, T.
    largest: upper limit of the search.

  Returns:
    [T + 1] exponents for i = 0 ... T. The first is 0. The last is inf: the last
    step removes all information that is left.
  """
  targets = np.arange(1, num_steps) / num_steps
  low, high = (np.full_like(targets, end) for end in (-40.0, np.log(largest)))
  for _ in range(60):
    middle = (low + high) / 2
    is_past = removal(np.exp(middle)) > targets
    low, high = np.where(is_past, low, middle), np.where(is_past, middle, high)
  return np.concatenate([[0.0], np.exp(high), [np.inf]])


def _entropy(p: Float[np.ndarray, '*shape']) -> Float[np.ndarray, '*shape']:
  """Returns -p log p, elementwise."""
  return -p * np.log(np.where(p > 0, p, 1.0))


@pytree
class Tabulated:
  """A schedule given on the grid i / T; other times take the nearest value.

  The rate at t is that of the step that ends at t.

  Attributes:
    log_alpha: [T + 1] logs of alpha.
    log_1m_alpha: [T + 1] logs of 1 - alpha.
    num_steps: number of steps, T.
  """

  log_alpha: Float[Array, ' {num_steps}+1']
  log_1m_alpha: Float[Array, ' {num_steps}+1']
  num_steps: int = static()

  def __call__(self, t: Time) -> NoiseLevel:
    i = place(t, self.num_steps)[..., None]
    alpha = jnp.exp(self.log_alpha)
    rate = self.num_steps * (alpha[jnp.maximum(i - 1, 0)] - alpha[i])
    return NoiseLevel(self.log_alpha[i], self.log_1m_alpha[i], rate)


def from_betas(betas: Float[np.ndarray, ' T']) -> Tabulated:
  """Returns the schedule alpha_i = prod_{j <= i} (1 - beta_j) of [T] betas."""
  with np.errstate(divide='ignore'):
    return from_exponents(np.cumsum([0.0, *-np.log1p(-np.asarray(betas))]))


def from_exponents(exponents: Float[np.ndarray, ' N']) -> Tabulated:
  """Returns the schedule of [T + 1] cumulative -log alpha, the first one 0."""
  log_alpha = -np.asarray(exponents, np.float64)
  with np.errstate(divide='ignore'):
    log_1m_alpha = np.log(-np.expm1(log_alpha))
  # Adding 0.0 turns a negative zero into a positive one.
  return Tabulated(
    jnp.asarray(log_alpha + 0.0), jnp.asarray(log_1m_alpha), len(log_alpha) - 1
  )


@pytree
class LeftToRight:
  """Autoregression as absorbing noise: step i masks position L - i.

  With T = L steps the finite bound is the exact left-to-right likelihood
  (Austin et al. 2021, section 4). The levels are [L, 1], one per position.

  Attributes:
    length: tokens in a row, L.
  """

  length: int = static()

  def __call__(self, t: Time) -> NoiseLevel:
    left = self.length - place(t, self.length)
    position, left = match_ranks(jnp.arange(self.length), left)
    is_kept = (position < left)[..., None]
    level = lambda is_full: jnp.where(is_full, 0.0, -jnp.inf)
    return NoiseLevel(
      level(is_kept), level(~is_kept), jnp.zeros_like(is_kept, float)
    )
