"""A learnt noise schedule: gamma = log (1 - alpha) / alpha increases with t.

VDM, Kingma et al. 2021; for text Plaid, Gulrajani & Hashimoto 2023.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Float

from textdiffusion.core.numerics import match_ranks, pytree
from textdiffusion.core.types import Array, Key, PyTree, Time
from textdiffusion.schedules.noise import NoiseLevel


@pytree
class LearntGamma:
  """gamma(t) = low + (high - low) g(t), where g increases from 0 to 1.

  Attributes:
    ends: [2], low and high.
    inside: parameters of g, which is a sum of t and of tanh of increasing
      linear functions of t, with positive weights.
  """

  ends: Float[Array, ' 2']
  inside: PyTree

  def gamma(self, t: Time) -> Float[Array, '...']:
    """Returns gamma(t), in the shape of t."""
    raw = lambda t: _increasing(self.inside, t)
    first, last = raw(jnp.zeros(())), raw(jnp.ones(()))
    share = (raw(jnp.asarray(t, float)) - first) / (last - first)
    return self.ends[0] + (self.ends[1] - self.ends[0]) * share

  def slope(self, t: Time) -> Float[Array, '...']:
    """Returns d gamma / dt, in the shape of t."""
    t = jnp.asarray(t, float)
    return jax.jvp(self.gamma, (t,), (jnp.ones_like(t),))[1]

  def __call__(self, t: Time) -> NoiseLevel:
    gamma, slope = self.gamma(t)[..., None], self.slope(t)[..., None]
    log_alpha, log_noise = (jax.nn.log_sigmoid(x) for x in (-gamma, gamma))
    return NoiseLevel(
      log_alpha, log_noise, jnp.exp(log_alpha + log_noise) * slope
    )


def learnable(key: Key, low: float, high: float, units: int = 64) -> PyTree:
  """Returns initial parameters of a nearly linear gamma.

  Args:
    key: random key.
    low: gamma at t = 0.
    high: gamma at t = 1.
    units: number of tanh units.

  Returns:
    The fields of `LearntGamma`: {'ends', 'inside'}.
  """
  inverse_softplus = lambda x: math.log(math.expm1(x))
  return {
    'ends': jnp.asarray([low, high]),
    'inside': {
      'straight': jnp.full((), inverse_softplus(1.0)),
      'weight': jnp.full(units, inverse_softplus(0.1 / units)),
      'rate': jnp.full(units, inverse_softplus(4.0)),
      'shift': jax.random.uniform(key, (units,), minval=-4.0, maxval=0.0),
    },
  }


def _increasing(
  inside: PyTree, t: Float[Array, '*shape']
) -> Float[Array, '*shape']:
  """Returns g(t) up to shift and scale, in the shape of t."""
  positive = lambda name: jax.nn.softplus(inside[name])
  rate, shift, weight, time = match_ranks(
    positive('rate'), inside['shift'], positive('weight'), t[..., None]
  )
  bent = jnp.tanh(rate * time + shift)
  return positive('straight') * t + (weight * bent).sum(-1)


def variance_loss(
  noise: LearntGamma, t: Float[Array, ' B'], loss: Float[Array, ' B']
) -> Float[Array, ' B']:
  """Returns a term of value 0 whose gradient lowers the variance of the loss.

  The gradient, which is in `inside` only, is that of the variance of the loss
  over uniform t. It needs no network call: a loss in continuous time is
  gamma' h(gamma), whose mean does not depend on the shape of gamma. Its mean
  square is the integral of h^2 / t'(gamma), so only 1 / t' at a fixed gamma
  changes, by d gamma' - gamma'' / gamma' d gamma. (Plaid differentiates the
  squared loss through the network.)

  Args:
    noise: the schedule.
    t: [B] times.
    loss: [B] losses at these times.

  Returns:
    [B] zeros with a gradient.
  """
  stop = jax.lax.stop_gradient
  noise = LearntGamma(stop(noise.ends), noise.inside)
  slope, bend = jax.jvp(noise.slope, (t,), (jnp.ones_like(t),))
  slope_at_gamma = noise.slope(t) - stop(bend / slope) * noise.gamma(t)
  value = stop(jnp.square(loss) / slope) * slope_at_gamma
  return value - stop(value)
