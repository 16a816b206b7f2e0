"""Schedules of Gaussian noise: beta_i, the variance that step i of T adds.

Each is a squared signal alpha as a function of t in [0, 1], or a formula for
the betas, in NumPy float64; T only sets the grid. The tables are those of
Nichol & Dhariwal 2021 and of Diffusion-LM (Li et al. 2022), in whose code
index i is t = (i + 1) / T here.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import numpy as np

from textdiffusion.core.types import UserError
from textdiffusion.schedules.betas import Tabulated, from_betas

_LARGEST = 0.999  # the official cap: some signal is left at t = 1


class Variances(Protocol):
  """A frozen dataclass of choices."""

  def betas(self, num_steps: int) -> np.ndarray:
    """[T] in (0, 1), float64."""
    ...


def tabulated(variances: Variances, num_steps: int) -> Tabulated:
  """The schedule on the grid i / T, no noise at t = 0."""
  if num_steps < 1:
    raise UserError(f'num_steps={num_steps}: must be at least 1')
  return from_betas(variances.betas(num_steps))


def _ratios(
  alpha: Callable[[np.ndarray], np.ndarray], num_steps: int, shifted: bool
) -> np.ndarray:
  """[T] betas of consecutive values of alpha, capped.

  shifted: by one step to the left, so that the first beta is 1 - alpha(0), and
  no step ends at alpha(1).
  """
  values = alpha(np.arange(num_steps + 1) / num_steps)
  betas = 1 - values[1:] / values[:-1]
  if shifted:
    betas = np.concatenate([1 - values[:1], betas[:-1]])
  return np.minimum(betas, _LARGEST)


@dataclasses.dataclass(frozen=True)
class SquareRoot:
  """alpha = 1 - sqrt(t + 1e-4) over its value at t = 0: noise rises fast at
  first, where a token is still nearest to its embedding. Diffusion-LM."""

  def betas(self, num_steps: int) -> np.ndarray:
    return _ratios(lambda t: 1 - np.sqrt(t + 1e-4), num_steps, shifted=False)


@dataclasses.dataclass(frozen=True)
class SquaredCosine:
  """alpha = cos^2(pi / 2 (t + offset) / (1 + offset)) over its value at 0.

  Nichol & Dhariwal 2021. offset=0.1 with shifted is `trunc_cos`.
  """

  offset: float = 0.008
  shifted: bool = False

  def betas(self, num_steps: int) -> np.ndarray:
    angle = lambda t: (t + self.offset) / (1 + self.offset) * np.pi / 2
    return _ratios(lambda t: np.cos(angle(t)) ** 2, num_steps, self.shifted)


@dataclasses.dataclass(frozen=True)
class Rescaled:
  """Noise of F times the standard deviation on the same signal, at unit
  variance: alpha / (F^2 - (F^2 - 1) alpha), so that near embeddings are harder
  to tell apart (Difformer, Gao et al. 2024, F = 4)."""

  base: Variances = SquareRoot()
  factor: float = 4.0

  def __post_init__(self) -> None:
    if self.factor <= 0:
      raise UserError(f'factor={self.factor}: must be positive')

  def betas(self, num_steps: int) -> np.ndarray:
    alpha = np.cumprod(1 - self.base.betas(num_steps))
    more = self.factor**2
    alpha = np.concatenate([[1.0], alpha / (more - (more - 1) * alpha)])
    return 1 - alpha[1:] / alpha[:-1]


@dataclasses.dataclass(frozen=True)
class LinearVariances:
  """1000 / T times 1e-4 up to 0.02, in equal steps (Ho et al. 2020).

  first: added to all of them, or, with `bent` steps, falling to 0 over those:
  first=0.01 is `trunc_lin`, and with bent=10 `pw_lin`, which rises afterwards.
  """

  first: float = 0.0
  bent: int = 0

  def betas(self, num_steps: int) -> np.ndarray:
    low, high = 1e-4 * 1000 / num_steps, 0.02 * 1000 / num_steps
    if not self.bent:
      return np.linspace(low, high, num_steps) + self.first
    falling = np.linspace(low + self.first, low, self.bent)
    return np.concatenate(
      [falling, np.linspace(low, high, num_steps - self.bent)]
    )
