"""Schedules of Gaussian noise: beta_i is the variance that step i of T adds.

Each schedule is a squared signal alpha as a function of t in [0, 1], or a
formula for the betas, in NumPy float64. T only sets the grid. They are the
schedules of Nichol & Dhariwal 2021 and of Diffusion-LM (Li et al. 2022), whose
index i is t = (i + 1) / T here.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np
from jaxtyping import Float

from textdiffusion.core.types import UserError
from textdiffusion.schedules.betas import Tabulated, from_betas

_LARGEST = 0.999  # The official cap of betas; it leaves some signal at t = 1.


class Variances(Protocol):
  """The contract of a Gaussian schedule: a frozen dataclass of options."""

  def betas(self, num_steps: int) -> Float[np.ndarray, ' {num_steps}']:
    """Returns float64 [T] betas in (0, 1)."""
    ...


def tabulated(variances: Variances, num_steps: int) -> Tabulated:
  """Returns the schedule on the grid i / T, without noise at t = 0.

  Raises:
    UserError: there is no step.
  """
  if num_steps < 1:
    raise UserError(f'num_steps={num_steps}: must be at least 1')
  return from_betas(variances.betas(num_steps))


def _ratios(
  alpha: Callable[[Float[np.ndarray, ' N']], Float[np.ndarray, ' N']],
  num_steps: int,
  shifted: bool,
) -> Float[np.ndarray, ' {num_steps}']:
  """Returns [T] betas from the ratios of consecutive alphas, capped.

  Args:
    alpha: function of t.
    num_steps: number of steps, T.
    shifted: whether alphas are shifted by one step. Then the first beta is
      1 - alpha(0), and no step ends at alpha(1).
  """
  values = alpha(np.arange(num_steps + 1) / num_steps)
  betas = 1 - values[1:] / values[:-1]
  if shifted:
    betas = np.concatenate([1 - values[:1], betas[:-1]])
  return np.minimum(betas, _LARGEST)


@dataclasses.dataclass(frozen=True)
class SquareRoot:
  """alpha = 1 - sqrt(t + 1e-4), divided by its value at t = 0 (Diffusion-LM).

  The noise increases fast near t = 0, where the nearest embedding is still that
  of the token.
  """

  def betas(self, num_steps: int) -> Float[np.ndarray, ' {num_steps}']:
    return _ratios(lambda t: 1 - np.sqrt(t + 1e-4), num_steps, shifted=False)


@dataclasses.dataclass(frozen=True)
class SquaredCosine:
  """alpha = cos^2(pi / 2 (t + offset) / (1 + offset)), divided by alpha(0).

  Nichol & Dhariwal 2021. With offset=0.1 and shifted=True it is `trunc_cos` of
  Diffusion-LM.

  Attributes:
    offset: shift of the cosine, which keeps the first betas away from 0.
    shifted: whether alphas are shifted by one step, see `_ratios`.
  """

  offset: float = 0.008
  shifted: bool = False

  def betas(self, num_steps: int) -> Float[np.ndarray, ' {num_steps}']:
    angle = lambda t: (t + self.offset) / (1 + self.offset) * np.pi / 2
    return _ratios(lambda t: np.cos(angle(t)) ** 2, num_steps, self.shifted)


@dataclasses.dataclass(frozen=True)
class Rescaled:
  """Another schedule with the standard deviation of the noise scaled by F.

  At unit variance, alpha becomes alpha / (F^2 - (F^2 - 1) alpha). More noise
  makes similar embeddings harder to distinguish (Difformer, Gao et al. 2024,
  F = 4).

  Attributes:
    base: the schedule that is scaled.
    factor: F.
  """

  base: Variances = SquareRoot()
  factor: float = 4.0

  def __post_init__(self) -> None:
    if self.factor <= 0:
      raise UserError(f'factor={self.factor}: must be positive')

  def betas(self, num_steps: int) -> Float[np.ndarray, ' {num_steps}']:
    alpha = np.cumprod(1 - self.base.betas(num_steps))
    more = self.factor**2
    alpha = np.concatenate([[1.0], alpha / (more - (more - 1) * alpha)])
    return 1 - alpha[1:] / alpha[:-1]


@dataclasses.dataclass(frozen=True)
class LinearVariances:
  """Betas in equal steps, 1000 / T times 1e-4 to 0.02 (Ho et al. 2020).

  first=0.01 is `trunc_lin` of Diffusion-LM, and with bent=10 it is `pw_lin`.

  Attributes:
    first: number added to all betas; with `bent` > 0, only to the first ones.
    bent: number of steps in which the added number falls from `first` to 0,
      before the betas increase.
  """

  first: float = 0.0
  bent: int = 0

  def betas(self, num_steps: int) -> Float[np.ndarray, ' {num_steps}']:
    low, high = 1e-4 * 1000 / num_steps, 0.02 * 1000 / num_steps
    if not self.bent:
      return np.linspace(low, high, num_steps) + self.first
    falling = np.linspace(low + self.first, low, self.bent)
    return np.concatenate(
      [falling, np.linspace(low, high, num_steps - self.bent)]
    )
