"""Noise that is learnt: gamma = log (1 - alpha) / alpha rises with t (VDM,
Kingma et al. 2021; for text Plaid, Gulrajani & Hashimoto 2023)."""

import math

import jax
import jax.numpy as jnp

from textdiffusion.core.numerics import pytree
from textdiffusion.core.types import Array, Key, PyTree, Time
from textdiffusion.schedules.noise import NoiseLevel


@pytree
class LearntGamma:
  """gamma(t) = low + (high - low) g(t), g rising from 0 to 1.

  ends: [2], low and high. inside: of g, what t is bent by: positive multiples
  of tanh of t at positive rates, and of t itself.
  """

  ends: Array
  inside: PyTree

  def gamma(self, t: Time) -> Array:
    """[...] -> [...]."""
    raw = lambda t: _rising(self.inside, t)
    first, last = raw(jnp.zeros(())), raw(jnp.ones(()))
    share = (raw(jnp.asarray(t, float)) - first) / (last - first)
    return self.ends[0] + (self.ends[1] - self.ends[0]) * share

  def slope(self, t: Time) -> Array:
    """d gamma / dt, [...] -> [...]."""
    t = jnp.asarray(t, float)
    return jax.jvp(self.gamma, (t,), (jnp.ones_like(t),))[1]

  def __call__(self, t: Time) -> NoiseLevel:
    gamma, slope = self.gamma(t)[..., None], self.slope(t)[..., None]
    log_alpha, log_noise = (jax.nn.log_sigmoid(x) for x in (-gamma, gamma))
    return NoiseLevel(
      log_alpha, log_noise, jnp.exp(log_alpha + log_noise) * slope
    )


def learnable(key: Key, low: float, high: float, units: int = 64) -> PyTree:
  """Parameters of a gamma that is all but straight: {'ends', 'inside'}."""
  inverse = lambda x: math.log(math.expm1(x))  # of the softplus
  return {
    'ends': jnp.asarray([low, high]),
    'inside': {
      'straight': jnp.full((), inverse(1.0)),
      'weight': jnp.full(units, inverse(0.1 / units)),
      'rate': jnp.full(units, inverse(4.0)),
      'shift': jax.random.uniform(key, (units,), minval=-4.0, maxval=0.0),
    },
  }


def _rising(inside: PyTree, t: Array) -> Array:
  positive = lambda name: jax.nn.softplus(inside[name])
  bent = jnp.tanh(positive('rate') * t[..., None] + inside['shift'])
  return positive('straight') * t + (positive('weight') * bent).sum(-1)


def variance_loss(noise: LearntGamma, t: Array, loss: Array) -> Array:
  """[B] times and losses -> [B], 0 in value: in `inside` its gradient is that
  of the variance of the loss over even t, without a call of the network.

  A loss in continuous time is gamma' h(gamma), whose mean does not depend on
  what is inside. Its mean square is the integral of h^2 / t'(gamma), so what
  moves is 1 / t' at a fixed gamma: d gamma' - gamma'' / gamma' d gamma. (Plaid
  differentiates the squared loss through the network.)
  """
  still = jax.lax.stop_gradient
  noise = LearntGamma(still(noise.ends), noise.inside)
  slope, bend = jax.jvp(noise.slope, (t,), (jnp.ones_like(t),))
  moved = noise.slope(t) - still(bend / slope) * noise.gamma(t)
  value = still(jnp.square(loss) / slope) * moved
  return value - still(value)
