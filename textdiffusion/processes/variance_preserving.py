"""Gaussian noise on embeddings that keeps their variance (Ho et al. 2020)."""

from typing import Any, Literal

import jax.numpy as jnp

from textdiffusion.core.distributions import Normal
from textdiffusion.core.numerics import log1m_exp, pytree
from textdiffusion.core.types import (
  X0,
  Array,
  Embedder,
  Eps,
  Facts,
  Key,
  Posterior,
  Time,
  Velocity,
)
from textdiffusion.schedules.learnt import LearntGamma
from textdiffusion.schedules.noise import Schedule, log_transition


@pytree
class VariancePreserving:
  """q_t(. | x0) = N(sqrt(alpha) x0, 1 - alpha); features x: [L, D].

  schedule: of alpha, the squared signal. One level a position is as good as one
  for all: every coefficient is of alpha(s) and alpha(t) where it is used.
  """

  schedule: Schedule

  def refresh(self, facts: Facts) -> 'VariancePreserving':
    """Nothing of it is learnt."""
    return self

  def prior(self) -> Normal:
    """N(0, 1) of one feature."""
    return Normal(jnp.zeros(()), jnp.ones(()))

  def marginal(self, x0: Array, t: Time) -> Normal:
    """[L, D] -> [L, D]."""
    level = self.schedule(t)
    std = jnp.exp(0.5 * level.log_1m_alpha)
    return Normal(jnp.exp(0.5 * level.log_alpha) * x0, std)

  def corrupt(self, key: Key, x0: Array, t: Time) -> Array:
    """[L, D] -> [L, D]."""
    return self.marginal(x0, t).sample(key)

  def clean(self, x0: Array) -> X0:
    """The head that knows x0."""
    return X0(x0)

  def bridge(
    self,
    head: Any,
    xt: Array,
    s: Time,
    t: Time,
    eta: float = 1.0,
    variance: Literal['small', 'large'] = 'small',
  ) -> Normal:
    """q(x_s | x_t, x0-hat), [L, D], any s < t; a clean x_t stays as it is.

    Args:
      eta: 0 is DDIM's deterministic step (Song et al. 2021, equation 12), which
        also runs from s > t, and 1 the posterior. With f = (1 - alpha_{t|s}) /
        (1 - alpha_t), the variance is eta^2 (1 - alpha_s) f, and
        x_t - sqrt(alpha_t) x0-hat is kept by the square root of
        (1 - alpha_s) / (1 - alpha_t) (1 - eta^2 f).
      variance: `large` takes 1 - alpha_{t|s} in its place, none at s = 0: right
        where x0 is a normal draw, as `small` is where it is one point.
    """
    now, then = self.schedule(s), self.schedule(t)
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
    of_xt = jnp.sqrt(jnp.exp(log_ratio) * kept)
    of_x0 = jnp.exp(0.5 * now.log_alpha) - of_xt * jnp.exp(0.5 * then.log_alpha)
    mean = of_xt * xt + of_x0 * to_x0(self, head, xt, t).value
    return Normal(mean, jnp.broadcast_to(std, mean.shape))


@pytree
class Following(VariancePreserving):
  """Noise whose schedule is in the method's state, as it follows the training;
  `schedule` is that of the start."""

  def refresh(self, facts: Facts) -> VariancePreserving:
    """The noise under the schedule of the method's state."""
    state = facts.method_state
    return VariancePreserving(state.schedule) if state else self


@pytree
class Learnt(VariancePreserving):
  """Noise whose schedule is learnt with the network; `schedule` is that of the
  start."""

  def refresh(self, facts: Facts) -> VariancePreserving:
    """The noise under the parameter 'noise' of the method."""
    own = facts.method_params
    return VariancePreserving(LearntGamma(**own['noise'])) if own else self


def to_x0(p: VariancePreserving, head: Any, xt: Array, t: Time) -> X0:
  """Any feature head -> X0, [L, D]. Raises TypeError for token heads."""
  level = p.schedule(t)
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
  p: VariancePreserving, embedder: Embedder, head: Any, xt: Array, t: Time
) -> X0:
  """`to_x0`, also of a `Posterior`: the mean embedding under it, which is the
  posterior mean of x0 (score interpolation, Dieleman et al. 2022)."""
  if isinstance(head, Posterior):
    return X0(embedder.expected(head.logits))
  return to_x0(p, head, xt, t)


def to_eps(p: VariancePreserving, head: Any, xt: Array, t: Time) -> Eps:
  """Any feature head -> Eps, [L, D]; 0 / 0 at t = 0, where nothing is noise."""
  if isinstance(head, Eps):
    return head
  level = p.schedule(t)
  clean = jnp.exp(0.5 * level.log_alpha) * to_x0(p, head, xt, t).value
  return Eps((xt - clean) * jnp.exp(-0.5 * level.log_1m_alpha))


def to_velocity(
  p: VariancePreserving, head: Any, xt: Array, t: Time
) -> Velocity:
  """Any feature head -> Velocity, [L, D]."""
  if isinstance(head, Velocity):
    return head
  level, x0 = p.schedule(t), to_x0(p, head, xt, t).value
  signal, noise = (
    jnp.exp(0.5 * log) for log in (level.log_alpha, level.log_1m_alpha)
  )
  return Velocity((signal * xt - x0) / noise)
