"""Variance-preserving Gaussian noise on embeddings (Ho et al. 2020)."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Float

from textdiffusion.core.distributions import Normal
from textdiffusion.core.numerics import log1m_exp, match_ranks, pytree
from textdiffusion.core.types import (
  X0,
  Array,
  Embedder,
  Eps,
  Facts,
  Head,
  Key,
  Posterior,
  Time,
  Velocity,
)
from textdiffusion.schedules.learnt import LearntGamma
from textdiffusion.schedules.noise import Schedule, log_transition


@pytree
class VariancePreserving:
  """q_t(. | x0) = N(sqrt(alpha) x0, 1 - alpha) for features x0: [L, D].

  Attributes:
    schedule: schedule of alpha, the squared signal. It may have one level for
      all positions or one per position, as coefficients are computed from
      alpha(s) and alpha(t) at each call.
  """

  schedule: Schedule

  def refresh(self, facts: Facts) -> 'VariancePreserving':
    """Returns the process itself, as nothing of it is learnt."""
    return self

  def prior(self) -> Normal:
    """Returns N(0, 1), the distribution of one feature at t = 1."""
    return Normal(jnp.zeros(()), jnp.ones(()))

  def marginal(self, x0: Float[Array, '... D'], t: Time) -> Normal:
    """Returns q_t(. | x0) for features [L, D]."""
    x0, level = match_ranks(x0, self.schedule(t))
    std = jnp.exp(0.5 * level.log_1m_alpha)
    return Normal(jnp.exp(0.5 * level.log_alpha) * x0, std)

  def corrupt(
    self, key: Key, x0: Float[Array, '... L D'], t: Time
  ) -> Float[Array, '... L D']:
    """Draws noisy features [L, D]."""
    return self.marginal(x0, t).sample(key)

  def clean(self, x0: Float[Array, '... L D']) -> X0:
    """Returns the head of a perfect prediction of x0."""
    return X0(x0)

  def bridge(
    self,
    head: Head,
    xt: Float[Array, '... L D'],
    s: Time,
    t: Time,
    eta: float = 1.0,
    variance: Literal['small', 'large'] = 'small',
  ) -> Normal:
    """Returns the reverse step q(x_s | x_t, x0-hat), [L, D].

    A clean x_t (t = 0) stays as it is.

    Args:
      head: any feature head at x_t, which gives x0-hat.
      xt: [L, D] noisy features.
      s: end of the step, s < t.
      t: start of the step.
      eta: 1 is the posterior; 0 is the deterministic step of DDIM (Song et al.
        2021, equation 12), which may also go to s > t. With
        f = (1 - alpha_{t|s}) / (1 - alpha_t), the variance is
        eta^2 (1 - alpha_s) f, and x_t - sqrt(alpha_t) x0-hat is multiplied by
        the square root of (1 - alpha_s) / (1 - alpha_t) (1 - eta^2 f).
      variance: 'large' uses the variance 1 - alpha_{t|s} (0 at s = 0), which is
        exact if x0 is normal. 'small' is exact if x0 is a single point.
    """
    head, xt, now, then = match_ranks(
      head, xt, self.schedule(s), self.schedule(t)
    )
    log_keep = log_transition(now, then)
    is_clean = jnp.isneginf(then.log_1m_alpha)
    log_ratio = jnp.where(is_clean, 0.0, now.log_1m_alpha - then.log_1m_alpha)
    kept, std = jnp.ones_like(log_ratio), jnp.zeros_like(log_ratio)
    if eta:
      fresh = jnp.where(
        is_clean, 0.0, jnp.exp(log1m_exp(log_keep) - then.log_1m_alpha)
      )
      kept = jnp.exp(log_keep + log_ratio) + (1 - eta**2) * fresh
      std = eta * jnp.exp(0.5 * now.log_1m_alpha) * jnp.sqrt(fresh)
      if variance == 'large':
        is_end = jnp.isneginf(now.log_1m_alpha)
        std = jnp.where(is_end, 0.0, jnp.sqrt(jnp.exp(log1m_exp(log_keep))))
    weight_xt = jnp.sqrt(jnp.exp(log_ratio) * kept)
    weight_x0 = jnp.exp(0.5 * now.log_alpha)
    weight_x0 -= weight_xt * jnp.exp(0.5 * then.log_alpha)
    mean = weight_xt * xt + weight_x0 * to_x0(self, head, xt, t).value
    return Normal(mean, jnp.broadcast_to(std, mean.shape))


@pytree
class Fitted(VariancePreserving):
  """Noise whose schedule is fitted in training and kept in the method state.

  Attributes:
    schedule: the initial schedule.
  """

  def refresh(self, facts: Facts) -> VariancePreserving:
    """Returns the process with the schedule of the method state."""
    state = facts.method_state
    return VariancePreserving(state.schedule) if state else self


@pytree
class Learnt(VariancePreserving):
  """Noise whose schedule is learnt together with the network.

  Attributes:
    schedule: the initial schedule.
  """

  def refresh(self, facts: Facts) -> VariancePreserving:
    """Returns the process with the method parameter 'noise' as its schedule."""
    own = facts.method_params
    return VariancePreserving(LearntGamma(**own['noise'])) if own else self


def to_x0(
  p: VariancePreserving, head: Head, xt: Float[Array, '... L D'], t: Time
) -> X0:
  """Converts any feature head to an estimate of x0, [L, D].

  Args:
    p: the process.
    head: any feature head at x_t.
    xt: [L, D] noisy features.
    t: time.

  Raises:
    TypeError: the head is not a feature head.
  """
  head, xt, level = match_ranks(head, xt, p.schedule(t))
  signal = jnp.exp(0.5 * level.log_alpha)
  noise = jnp.exp(0.5 * level.log_1m_alpha)
  match head:
    case X0():
      return head
    case Eps(value):
      return X0((xt - noise * value) / signal)
    case Velocity(value):
      return X0(signal * xt - noise * value)
  raise TypeError(
    f'{type(p).__name__} takes X0, Eps or Velocity heads, not '
    f'{type(head).__name__}'
  )


def estimate_of(
  p: VariancePreserving,
  embedder: Embedder,
  head: Head,
  xt: Float[Array, '... L D'],
  t: Time,
) -> X0:
  """Converts a feature head or a `Posterior` to an estimate of x0, [L, D].

  For a `Posterior` it is the mean embedding, which is the posterior mean of x0
  (score interpolation, Dieleman et al. 2022).

  Args:
    p: the process.
    embedder: the token embeddings.
    head: the head at x_t.
    xt: [L, D] noisy features.
    t: time.
  """
  if isinstance(head, Posterior):
    return X0(embedder.expected(head.logits))
  return to_x0(p, head, xt, t)


def to_eps(
  p: VariancePreserving, head: Head, xt: Float[Array, '... L D'], t: Time
) -> Eps:
  """Converts any feature head to an estimate of the noise, [L, D].

  It is 0 / 0 at t = 0, where there is no noise.

  Args:
    p: the process.
    head: any feature head at x_t.
    xt: [L, D] noisy features.
    t: time.
  """
  if isinstance(head, Eps):
    return head
  xt, x0, level = match_ranks(xt, to_x0(p, head, xt, t).value, p.schedule(t))
  clean = jnp.exp(0.5 * level.log_alpha) * x0
  return Eps((xt - clean) * jnp.exp(-0.5 * level.log_1m_alpha))


def to_velocity(
  p: VariancePreserving, head: Head, xt: Float[Array, '... L D'], t: Time
) -> Velocity:
  """Converts any feature head to an estimate of the velocity, [L, D].

  Args:
    p: the process.
    head: any feature head at x_t.
    xt: [L, D] noisy features.
    t: time.
  """
  if isinstance(head, Velocity):
    return head
  xt, x0, level = match_ranks(xt, to_x0(p, head, xt, t).value, p.schedule(t))
  signal, noise = (
    jnp.exp(0.5 * log) for log in (level.log_alpha, level.log_1m_alpha)
  )
  return Velocity((signal * xt - x0) / noise)
