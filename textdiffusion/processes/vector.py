"""Masking with one rate per token (GenMD4, Shi et al. 2024, section 6).

q_t(. | x) = alpha_{t,x} delta_x + (1 - alpha_{t,x}) delta_mask. This is not
rank-one noise: a mask contains information about the token behind it. So on
masks p(x_i | z) is proportional to (1 - alpha_{t,x}) p(x_i | z without z_i),
and the exact denoiser depends on time.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import (
  expect,
  flip,
  log1m_exp,
  log_one_hot,
  match_ranks,
  pytree,
  static,
)
from textdiffusion.core.types import Array, Facts, Key, Time
from textdiffusion.processes.bridge import TokenProcess
from textdiffusion.schedules.noise import PolynomialPerToken, log_transition


def learnable(power: float, num_states: int) -> Float[Array, ' {num_states}']:
  """Returns parameters [K] whose softplus is `power`."""
  return jnp.full(num_states, math.log(math.expm1(power)))


@pytree
class VectorAbsorbing(TokenProcess):
  """A process that masks each token at its own rate.

  Attributes:
    schedule: schedule with one level per clean token, [..., K]. If the method
      has a parameter 'power', [K], `refresh` sets the powers to its softplus.
    num_states: number of states of a token, K.
    mask_id: id of the mask.
  """

  schedule: PolynomialPerToken
  num_states: int = static()  # ty: ignore[incompatible-attribute-override]
  mask_id: int = static()  # ty: ignore[incompatible-attribute-override]

  def refresh(self, facts: Facts) -> 'VectorAbsorbing':
    """Returns the process with the current powers of the method."""
    if not facts.method_params:
      return self
    power = jax.nn.softplus(facts.method_params['power'])
    schedule = dataclasses.replace(self.schedule, power=power)
    return dataclasses.replace(self, schedule=schedule)

  def prior(self) -> Categorical:
    """Returns the distribution of one token at t = 1, [K].

    It is the mask. Signal left at t = 1 is spread evenly over the tokens.
    """
    even = jnp.zeros((1, self.num_states))
    return Categorical(self.marginal(even, 1.0).logits[0])

  def marginal(
    self, x0: Int[Array, '...'] | Float[Array, '... K'], t: Time
  ) -> Categorical:
    """Returns q_t(. | x0), [L, K], for ids [L] or clean logits [L, K].

    The logit of the mask is ignored.
    """
    level, clean = match_ranks(self.schedule(t), self.clean_log_probs(x0))
    masked = _logsumexp(level.log_1m_alpha + clean)
    return Categorical(self._by_state(masked, level.log_alpha + clean))

  def corrupt(
    self, key: Key, x0: Int[Array, '... L'], t: Time
  ) -> Int[Array, '... L']:
    """Draws noisy tokens [L], by one draw per token."""
    log_noise = self.schedule.of(x0, t).log_1m_alpha
    moves = flip(key, jnp.broadcast_to(log_noise, x0.shape))
    return jnp.where(moves, self.mask_id, x0)

  def log_q(
    self, z: Int[Array, '... L'], x0: Int[Array, '... L'], t: Time
  ) -> Float[Array, '... L']:
    """Returns log q_t(z | x0), [L], for z that x0 can become.

    It builds no [L, K] array.

    Args:
      z: [L] noisy tokens.
      x0: [L] clean tokens.
      t: time.
    """
    z, level = match_ranks(z, self.schedule.of(x0, t))
    return jnp.where(self.is_mask(z), level.log_1m_alpha, level.log_alpha)

  def column(
    self, z: Int[Array, '... L'], s: Time, t: Time
  ) -> Float[Array, '... L K']:
    """Returns log q_{t|s}(z | y) for every y: [L, K]."""
    z, s, t = match_ranks(z, s, t)
    log_keep = log_transition(self.schedule(s), self.schedule(t))
    moves = self._by_state(0.0, log1m_exp(log_keep))
    stays = log_keep + log_one_hot(z, self.num_states)
    return jnp.where(self.is_mask(z)[..., None], moves, stays)

  def likelihood(
    self, z: Int[Array, '... L'], t: Time
  ) -> Float[Array, '... L K']:
    """Returns log q_t(z | x) for every clean x: [L, K]."""
    z, t = match_ranks(z, t)
    level = self.schedule(t)
    moves = self._by_state(-jnp.inf, level.log_1m_alpha)
    stays = level.log_alpha + log_one_hot(z, self.num_states)
    return jnp.where(self.is_mask(z)[..., None], moves, stays)

  def rate(self, z: Int[Array, '... L'], t: Time) -> Float[Array, '... L K']:
    """Returns the forward rate y -> z per unit of t, [L, K].

    It is 0 unless z is the mask.
    """
    z, t = match_ranks(z, t)
    moves = self._by_state(0.0, self.schedule(t).hazard)
    return jnp.where(self.is_mask(z)[..., None], moves, 0.0)

  def unmix(
    self, log_q: Float[Array, '... L K'], t: Time
  ) -> Float[Array, '... L K']:
    """Returns clean logits of a marginal, q / alpha on the tokens: [L, K]."""
    log_alpha = self._by_state(-jnp.inf, self.schedule(t).log_alpha)
    log_q, log_alpha = match_ranks(log_q, log_alpha)
    some = log_alpha > -jnp.inf
    ratio = log_q - jnp.where(some, log_alpha, 0.0)
    return jnp.where(some, ratio, -jnp.inf)

  def prior_nats(self, x0: Int[Array, '... L']) -> Float[Array, '... L']:
    """Returns KL(q_1(. | x0) || prior), [L] nats.

    It is `prior_bound`, computed without an [L, K] array.
    """
    level, noise = self.schedule.of(x0, 1.0), self.schedule(1.0).log_1m_alpha
    log_size = math.log(self.vocab_size)
    mean = _logsumexp(self._by_state(-jnp.inf, noise))[..., 0] - log_size
    return expect(level.log_alpha, log_size) + expect(
      level.log_1m_alpha, level.log_1m_alpha - mean
    )

  def decoder_nats(
    self, x0: Int[Array, '... L'], t: Time
  ) -> Float[Array, '... L']:
    """Returns the reconstruction term E -log p(x0 | z at t), [L] nats.

    The decoder p(x0 | mask) ~ 1 - alpha_{t,x0} uses the noise but no context.
    """
    x0, t = match_ranks(x0, t)
    log_noise = self.schedule.of(x0, t).log_1m_alpha
    noise = self._by_state(-jnp.inf, self.schedule(t).log_1m_alpha)
    total = _logsumexp(noise)[..., 0]
    return expect(log_noise, total - log_noise)

  def _by_state(
    self, mask: Float[Array, '...'] | float, tokens: Float[Array, '...']
  ) -> Float[Array, '... K']:
    """Returns [..., K]: one value at the mask, others at the tokens."""
    is_mask, mask, tokens = match_ranks(
      self.is_mask(jnp.arange(self.num_states)), mask, tokens
    )
    return jnp.where(is_mask, mask, tokens)


def _logsumexp(x: Float[Array, '... K']) -> Float[Array, '... 1']:
  """Returns log sum exp, [..., 1], without NaN gradients if all are -inf."""
  is_empty = jnp.isneginf(x).all(-1, keepdims=True)
  total = jax.nn.logsumexp(jnp.where(is_empty, 0.0, x), -1, keepdims=True)
  return jnp.where(is_empty, -jnp.inf, total)
