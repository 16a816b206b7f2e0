"""Noise schedules: functions of t in [0, 1] that return the noise level.

`alpha` is the probability that a token is kept, or the squared amplitude of the
signal in a Gaussian process. Coefficients have a trailing axis of size 1 (or K,
one per clean token), so that they broadcast against [L, K] and [L, D].
"""

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.numerics import (
  log1m_exp,
  log_add,
  match_ranks,
  pytree,
  static,
)
from textdiffusion.core.types import Array, Time, UserError


class NoiseLevel(NamedTuple):
  """The noise level at a time.

  Attributes:
    log_alpha: [..., 1] log of alpha.
    log_1m_alpha: [..., 1] log of 1 - alpha.
    rate: [..., 1] -d alpha / dt >= 0, which is finite where alpha is 0.
  """

  log_alpha: Float[Array, '... #K']
  log_1m_alpha: Float[Array, '... #K']
  rate: Float[Array, '... #K']

  @property
  def hazard(self) -> Float[Array, '... #K']:
    """The hazard beta = -d log(alpha) / dt, infinite where alpha is 0."""
    return self.rate * jnp.exp(-self.log_alpha)


class Schedule(Protocol):
  """The contract of a noise schedule.

  A schedule is a pytree; its leaves may be learnt or tabulated.
  """

  def __call__(self, t: Time) -> NoiseLevel:
    """Returns the noise level at t [...]; its arrays are [..., 1].

    The last axis broadcasts against the vocabulary or an embedding.
    """
    ...


def log_transition(now: NoiseLevel, then: NoiseLevel) -> Float[Array, '... #K']:
  """Returns log alpha_{t|s} = log(alpha_t / alpha_s): [..., 1].

  `now` is the level at s, `then` the level at t > s. The result is 0 where no
  signal is left at s, as noise stays as it is.
  """
  now, then = match_ranks(now, then)
  is_over = jnp.isneginf(now.log_alpha)
  kept = then.log_alpha - jnp.where(is_over, 0.0, now.log_alpha)
  return jnp.where(is_over, 0.0, kept)


def inverse(
  schedule: Schedule, log_1m_alpha: Float[Array, '*shape'], steps: int = 40
) -> Float[Array, '*shape']:
  """Finds the times with the given log(1 - alpha) by bisection.

  Args:
    schedule: noise schedule; alpha must be monotone in t.
    log_1m_alpha: values of log(1 - alpha), any shape.
    steps: number of bisections; 40 reach the precision of float32.

  Returns:
    Times in the shape of `log_1m_alpha`.
  """

  def halve(
    _: int, ends: tuple[Float[Array, '*shape'], Float[Array, '*shape']]
  ) -> tuple[Float[Array, '*shape'], Float[Array, '*shape']]:
    low, high = ends
    middle = (low + high) / 2
    too_noisy = schedule(middle).log_1m_alpha[..., 0] > log_1m_alpha
    return jnp.where(too_noisy, low, middle), jnp.where(too_noisy, middle, high)

  ends = jnp.zeros_like(log_1m_alpha), jnp.ones_like(log_1m_alpha)
  low, high = jax.lax.fori_loop(0, steps, halve, ends)
  return (low + high) / 2


def from_noise(
  noise: Callable[[Float[Array, '...']], Float[Array, '...']],
  t: Time,
  signal: Callable[[Float[Array, '...']], Float[Array, '...']] | None = None,
) -> NoiseLevel:
  """Returns the level of alpha = 1 - noise(t).

  Args:
    noise: function of t, precise near 0.
    t: times.
    signal: alpha as a function of t, for schedules where 1 - noise(t) would
      round near t = 1.
  """
  t = jnp.asarray(t, float)[..., None]
  level, rate = jax.jvp(noise, (t,), (jnp.ones_like(t),))
  log_alpha = jnp.log1p(-level)
  if signal is not None:
    log_alpha = jnp.where(level < 0.5, log_alpha, jnp.log(signal(t)))
  return NoiseLevel(log_alpha, jnp.log(level), jnp.maximum(rate, 0.0))


def from_sigma(
  sigma: Callable[[Float[Array, '...']], Float[Array, '...']], t: Time
) -> NoiseLevel:
  """Returns the level of alpha = exp(-sigma(t)) for the total noise sigma."""
  t = jnp.asarray(t, float)[..., None]
  total, rate = jax.jvp(sigma, (t,), (jnp.ones_like(t),))
  return NoiseLevel(-total, log1m_exp(-total), rate * jnp.exp(-total))


def _check_eps(eps: float) -> None:
  """Raises UserError if eps, the signal left at t = 1, is not in [0, 1)."""
  if not 0 <= eps < 1:
    raise UserError(f'eps={eps}: must be in [0, 1)')


@pytree
class Linear:
  """alpha = 1 - (1 - eps) t; MDLM, Duo and SEDD call it log-linear.

  Attributes:
    eps: alpha at t = 1.
  """

  eps: float = static(default=0.0)

  def __post_init__(self) -> None:
    _check_eps(self.eps)

  def __call__(self, t: Time) -> NoiseLevel:
    return from_noise(
      lambda t: (1 - self.eps) * t, t, lambda t: (1 - t) + self.eps * t
    )


@pytree
class LinearPath:
  """alpha = (1 - t)^2 / ((1 - t)^2 + t^2), the path of flow matching.

  Lipman et al. 2023: x_t = (1 - t) x0 + t noise, scaled to unit variance. A
  step of Euler's method for the flow equals a step of DDIM, because both keep
  the estimates of x0 and of the noise constant in the step.
  """

  def __call__(self, t: Time) -> NoiseLevel:
    total = lambda t: (1 - t) ** 2 + t**2
    return from_noise(
      lambda t: t**2 / total(t), t, lambda t: (1 - t) ** 2 / total(t)
    )


@pytree
class Cosine:
  """alpha = eps + (1 - eps) cos(pi t / 2), `CosineNoise` in MDLM.

  Attributes:
    eps: alpha at t = 1.
  """

  eps: float = static(default=0.0)

  def __post_init__(self) -> None:
    _check_eps(self.eps)

  def __call__(self, t: Time) -> NoiseLevel:
    return from_noise(
      lambda t: (1 - self.eps) * 2 * jnp.sin(jnp.pi * t / 4) ** 2,
      t,
      lambda t: self.eps + (1 - self.eps) * jnp.sin(jnp.pi / 2 * (1 - t)),
    )


@pytree
class Sine:
  """alpha = eps + (1 - eps) (1 - sin(pi t / 2)), `cosine` in MD4.

  MD4 writes it as 1 - cos(pi / 2 (1 - t)). Alpha falls fast near t = 0, where
  that of `Cosine` falls slowly.

  Attributes:
    eps: alpha at t = 1.
  """

  eps: float = static(default=0.0)

  def __post_init__(self) -> None:
    _check_eps(self.eps)

  def __call__(self, t: Time) -> NoiseLevel:
    return from_noise(
      lambda t: (1 - self.eps) * jnp.sin(jnp.pi * t / 2),
      t,
      lambda t: (
        self.eps + (1 - self.eps) * 2 * jnp.sin(jnp.pi / 4 * (1 - t)) ** 2
      ),
    )


@pytree
class CosineSquared:
  """alpha = eps + (1 - eps) cos(pi t / 2)^2, `CosineSqrNoise` in MDLM.

  Attributes:
    eps: alpha at t = 1.
  """

  eps: float = static(default=0.0)

  def __post_init__(self) -> None:
    _check_eps(self.eps)

  def __call__(self, t: Time) -> NoiseLevel:
    return from_noise(
      lambda t: (1 - self.eps) * jnp.sin(jnp.pi * t / 2) ** 2,
      t,
      lambda t: self.eps + (1 - self.eps) * jnp.sin(jnp.pi / 2 * (1 - t)) ** 2,
    )


@pytree
class Polynomial:
  """alpha = 1 - (1 - eps) t^power, `poly` in MD4.

  Attributes:
    power: exponent of t, above 0.
    eps: alpha at t = 1.
  """

  power: float = static(default=2.0)
  eps: float = static(default=0.0)

  def __post_init__(self) -> None:
    _check_eps(self.eps)
    if self.power <= 0:
      raise UserError(f'power={self.power}: must be positive')

  def __call__(self, t: Time) -> NoiseLevel:
    return from_noise(lambda t: (1 - self.eps) * t**self.power, t)


@pytree
class Power:
  """alpha = eps + (1 - eps) (1 - t)^power, as in discrete flow matching.

  The official code calls it `PolynomialConvexScheduler`. Here the signal is a
  power of 1 - t; in `Polynomial` the noise is a power of t. For powers below 1
  the rate is infinite at t = 1.

  Attributes:
    power: exponent of 1 - t, above 0.
    eps: alpha at t = 1.
  """

  power: float = static(default=2.0)
  eps: float = static(default=0.0)

  def __post_init__(self) -> None:
    _check_eps(self.eps)
    if self.power <= 0:
      raise UserError(f'power={self.power}: must be positive')

  def __call__(self, t: Time) -> NoiseLevel:
    keep = 1 - self.eps

    def noise(t: Float[Array, '*shape']) -> Float[Array, '*shape']:
      near = -jnp.expm1(self.power * jnp.log1p(-jnp.minimum(t, 0.5)))
      return keep * jnp.where(t < 0.5, near, 1 - (1 - t) ** self.power)

    return from_noise(
      noise, t, lambda t: self.eps + keep * (1 - t) ** self.power
    )


@pytree
class Geometric:
  """sigma = sigma_min^(1 - t) sigma_max^t, as in SEDD and MDLM.

  There is noise at t = 0 and signal at t = 1, so a bound needs its
  reconstruction and prior terms.

  Attributes:
    sigma_min: total noise at t = 0.
    sigma_max: total noise at t = 1.
  """

  sigma_min: float = static(default=1e-4)
  sigma_max: float = static(default=20.0)

  def __post_init__(self) -> None:
    if not 0 < self.sigma_min < self.sigma_max:
      raise UserError(
        f'sigma_min={self.sigma_min}, sigma_max={self.sigma_max}: '
        'need 0 < sigma_min < sigma_max'
      )

  def __call__(self, t: Time) -> NoiseLevel:
    growth = jnp.log(self.sigma_max / self.sigma_min)
    return from_sigma(lambda t: self.sigma_min * jnp.exp(growth * t), t)


@pytree
class LinearSigma:
  """sigma = sigma_min + t (sigma_max - sigma_min), `Linear` in MDLM.

  Attributes:
    sigma_min: total noise at t = 0.
    sigma_max: total noise at t = 1.
  """

  sigma_min: float = static(default=0.0)
  sigma_max: float = static(default=10.0)

  def __post_init__(self) -> None:
    if not 0 <= self.sigma_min < self.sigma_max:
      raise UserError(
        f'sigma_min={self.sigma_min}, sigma_max={self.sigma_max}: '
        'need 0 <= sigma_min < sigma_max'
      )

  def __call__(self, t: Time) -> NoiseLevel:
    spread = self.sigma_max - self.sigma_min
    return from_sigma(lambda t: self.sigma_min + spread * t, t)


@pytree
class Squeezed:
  """alpha = (1 - 2 eps) alpha' + eps, where alpha' is that of another schedule.

  Alpha is then in [eps, 1 - eps], as for all schedules of MD4. There is noise
  at t = 0 and signal at t = 1, so a bound needs the terms for both ends of
  time.

  Attributes:
    schedule: the schedule that is squeezed.
    eps: distance of alpha from 0 and 1.
  """

  schedule: Schedule
  eps: float = static(default=1e-4)

  def __post_init__(self) -> None:
    if not 0 <= self.eps < 0.5:
      raise UserError(f'eps={self.eps}: must be in [0, 0.5)')

  def __call__(self, t: Time) -> NoiseLevel:
    level = self.schedule(t)
    scale = 1 - 2 * self.eps
    floor = math.log(self.eps) if self.eps else -math.inf
    squeeze = lambda x: log_add(math.log(scale) + x, jnp.full_like(x, floor))
    signal, noise = squeeze(level.log_alpha), squeeze(level.log_1m_alpha)
    # The larger of alpha and 1 - alpha is computed from the smaller, as the log
    # of a number near 1 would be rounded.
    is_clean = noise < signal
    return NoiseLevel(
      jnp.where(is_clean, log1m_exp(noise), signal),
      jnp.where(is_clean, noise, log1m_exp(signal)),
      scale * level.rate,
    )


@pytree
class PolynomialPerToken:
  """alpha_v = 1 - (1 - eps) t^power_v for each clean token v (GenMD4).

  Attributes:
    power: [K] exponents above 0, learnt or fixed. That of the mask is not used.
    eps: alpha at t = 1.
  """

  power: Float[Array, ' K']
  eps: float = static(default=0.0)

  def __post_init__(self) -> None:
    _check_eps(self.eps)

  def __call__(self, t: Time) -> NoiseLevel:
    """Returns the levels of every token: leaves [..., K]."""
    return self._level(self.power, jnp.asarray(t, float)[..., None])

  def of(self, x0: Int[Array, '... L'], t: Time) -> NoiseLevel:
    """Returns the levels of the tokens x0, [L] ids: leaves [L]."""
    return self._level(self.power[x0], jnp.asarray(t, float))

  def reveal_rate(
    self, t: Time, x0: Int[Array, '... L'] | None = None
  ) -> Float[Array, '...']:
    """Returns the rate at which a mask is revealed, -alpha' / (1 - alpha).

    It is [L] for the masked tokens x0, and [..., K] for all tokens if x0 is
    None. As power / t it does not underflow with t^power.
    """
    t = jnp.asarray(t, float)
    powers = self.power if x0 is None else self.power[x0]
    powers, t = match_ranks(powers, t[..., None] if x0 is None else t)
    return powers / t

  def _level(
    self, power: Float[Array, '...'], t: Float[Array, '...']
  ) -> NoiseLevel:
    power, t = match_ranks(power, t)
    some = t > 0
    log_t = jnp.log(jnp.where(some, t, 1.0))
    log_noise = math.log1p(-self.eps) + power * log_t
    log_noise = jnp.where(some, log_noise, -jnp.inf)
    rate = (1 - self.eps) * power * t ** (power - 1)
    return NoiseLevel(log1m_exp(log_noise), log_noise, rate)
