"""Token processes q_t(. | x) = alpha_t delta_x + (1 - alpha_t) pi_t.

pi_t gives probability `share(t)` to the mask and spreads the rest evenly over
the vocabulary. share = 1 is absorbing noise (MDLM, MD4, SEDD), share = 0 is
uniform noise (UDLM, Duo), a constant share between them is a mixture (XDLM),
and a share that changes with t is the hybrid of GIDD.

This module alone decides which states are tokens. The mask, if there is one, is
one of the K states. Clean tokens and uniform noise use the other N = K - 1
states. So uniform noise never yields the mask, and gives each token probability
1 / N. Some codes have noise of weight k that is uniform over all K states. This
is the mixture with weight k N / K here.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import (
  expect,
  flip,
  log1m_exp,
  log_add,
  log_one_hot,
  match_ranks,
  pytree,
  static,
)
from textdiffusion.core.types import Array, Key, Time, UserError
from textdiffusion.processes.bridge import TokenProcess
from textdiffusion.schedules.noise import (
  NoiseLevel,
  Schedule,
  log_transition,
)

Share = Callable[[Float[Array, '...']], Float[Array, '...']]


@pytree
class RankOne(TokenProcess):
  """A token process with rank-one noise, see the module.

  Attributes:
    schedule: noise schedule, alpha_t.
    share: function of t that returns the probability of the mask in pi_t.
    num_states: number of states of a token, K, including the mask.
    mask_id: id of the mask; None for no mask.
    rest: function of t that returns 1 - share, for shares near 1, where the
      difference would round; None for the difference.
  """

  schedule: Schedule
  share: Share = static()
  num_states: int = static()  # ty: ignore[incompatible-attribute-override]
  mask_id: int | None = static()  # ty: ignore[incompatible-attribute-override]
  rest: Share | None = static(default=None)

  def __post_init__(self) -> None:
    if self.mask_id is not None and not 0 <= self.mask_id < self.num_states:
      raise ValueError(
        f'mask_id={self.mask_id} is not one of {self.num_states} states'
      )

  @property
  def is_absorbing(self) -> bool:
    """Whether noise only turns tokens into the mask."""
    return self.share is jnp.ones_like

  def prior(self) -> Categorical:
    """Returns the distribution of one token at t = 1, [K].

    Signal that the schedule leaves at t = 1 is spread evenly over the tokens,
    so that the prior term of the bound is finite.
    """
    even = jnp.zeros((1, self.num_states))
    return Categorical(self.marginal(even, 1.0).logits[0])

  def decoder_bound(self) -> Float[Array, '']:
    """Returns the reconstruction term E -log p(x0 | x at t = 0), [] nats.

    It is 0 without noise at t = 0. The decoder p(x0 | z) ~ q_0(z | x0) uses the
    noise but no context, so the term is the same for every token (MD4,
    appendix J.1, generalised to rank-one noise).
    """
    level, size = self.schedule(0.0), self.vocab_size
    share = self.share(jnp.zeros(1))
    masked = level.log_1m_alpha + jnp.log(share)
    other = level.log_1m_alpha + jnp.log1p(-share) - math.log(size)
    same = log_add(level.log_alpha, other)
    others = other + math.log(max(size - 1, 1))
    visible = log_add(same, others)
    nats = expect(masked, math.log(size))
    nats += expect(same, visible - same) + expect(others, visible - other)
    return nats[0]

  def marginal(
    self, x0: Int[Array, '...'] | Float[Array, '... K'], t: Time
  ) -> Categorical:
    """Returns q_t(. | x0), [L, K], for ids [L] or clean logits [L, K].

    The logit of the mask is ignored.
    """
    level, clean, noise = match_ranks(
      self.schedule(t),
      self.clean_log_probs(x0),
      self._noise(jnp.arange(self.num_states), t),
    )
    return Categorical(
      log_add(level.log_alpha + clean, level.log_1m_alpha + jnp.log(noise))
    )

  def corrupt(
    self, key: Key, x0: Int[Array, '... L'], t: Time
  ) -> Int[Array, '... L']:
    """Draws noisy tokens [L], by three draws per token for any vocabulary."""
    key_move, key_mask, key_token = jax.random.split(key, 3)
    moves = flip(
      key_move,
      jnp.broadcast_to(self.schedule(t).log_1m_alpha[..., 0], x0.shape),
    )
    share = jnp.broadcast_to(self.share(jnp.asarray(t, float)), x0.shape)
    masks = flip(key_mask, jnp.log(share))
    token = jax.random.randint(key_token, x0.shape, 0, self.vocab_size)
    if self.mask_id is None:
      return jnp.where(moves, token, x0)
    token += token >= self.mask_id
    return jnp.where(moves, jnp.where(masks, self.mask_id, token), x0)

  def column(
    self, z: Int[Array, '... L'], s: Time, t: Time
  ) -> Float[Array, '... L K']:
    """Returns log q_{t|s}(z | y) for every y: [L, K]."""
    z, s, t = match_ranks(z, s, t)
    log_keep = log_transition(self.schedule(s), self.schedule(t))
    noise = self.noise_between(z[..., None], s, t)
    return log_add(log_keep + log_one_hot(z, self.num_states), jnp.log(noise))

  def noise_at(
    self, states: Int[Array, '... #K'], t: Time
  ) -> Float[Array, '... #K']:
    """Returns b_t = (1 - alpha_t) pi_t of states.

    The states are [L, 1] or [K], the result [L, 1] or [L, K].
    """
    level, pi = match_ranks(self.schedule(t), self._noise(states, t))
    return jnp.exp(level.log_1m_alpha) * pi

  def noise_between(
    self, states: Int[Array, '... #K'], s: Time, t: Time
  ) -> Float[Array, '... #K']:
    """Returns q_{t|s}(z | y) for z other than y, which depends on z only.

    It is b_t(z) - alpha_{t|s} b_s(z) with b = (1 - alpha) pi. To avoid
    cancellation it is computed as
    (1 - alpha_{t|s}) pi_t + (alpha_{t|s} - alpha_t)(pi_t - pi_s).

    Args:
      states: [L, 1] or [K] states z.
      s: start of the noise.
      t: end of the noise, t > s.

    Returns:
      [L, 1] or [L, K].
    """
    pi_s, pi_t, now, then = match_ranks(
      self._noise(states, s),
      self._noise(states, t),
      self.schedule(s),
      self.schedule(t),
    )
    log_keep = log_transition(now, then)
    drift = jnp.exp(log_keep + now.log_1m_alpha) * (pi_t - pi_s)
    return jnp.exp(log1m_exp(log_keep)) * pi_t + drift

  def likelihood(
    self, z: Int[Array, '... L'], t: Time
  ) -> Float[Array, '... L K']:
    """Returns log q_t(z | x) for every clean x, [L, K].

    Unlike `column(z, 0, t)` it includes the noise at t = 0.
    """
    z, t = match_ranks(z, t)
    signal = self.schedule(t).log_alpha + log_one_hot(z, self.num_states)
    return log_add(signal, self.log_noise(z, t))

  def rate(self, z: Int[Array, '... L'], t: Time) -> Float[Array, '... L 1']:
    """Returns the forward rate y -> z per unit of t, [L, 1].

    It is the same for all y:
    R_t(z) = b'_t(z) + beta_t b_t(z) = beta_t pi_t(z) + (1 - alpha_t) pi'_t(z).
    """
    z, t = match_ranks(z, t)
    return self.flow(z, t) * jnp.exp(-self.schedule(t).log_alpha)

  def flow(self, z: Int[Array, '... L'], t: Time) -> Float[Array, '... L 1']:
    """Returns alpha_t times the rate of forward jumps into z, [L, 1].

    A token of any other state jumps to z at this rate, per unit of t. Times
    alpha_t it is finite even where alpha_t is 0.
    """
    z, t = match_ranks(z, jnp.asarray(t, float))
    level = self.schedule(t)
    pi, drift = jax.jvp(
      lambda t: self._noise(z[..., None], t), (t,), (jnp.ones_like(t),)
    )
    return level.rate * pi + jnp.exp(level.log_alpha + level.log_1m_alpha) * (
      drift
    )

  def log_noise(self, z: Int[Array, '...'], t: Time) -> Float[Array, '... 1']:
    """Returns log (1 - alpha_t) pi_t(z), the probability from noise: [L, 1]."""
    z, t = match_ranks(z, t)
    noise = jnp.log(self._noise(z[..., None], t))
    return self.schedule(t).log_1m_alpha + noise

  def unmix(
    self, log_q: Float[Array, '... L K'], t: Time
  ) -> Float[Array, '... L K']:
    """Returns the unnormalised clean logits of a marginal, [L, K].

    They are log(q - (1 - alpha) pi), and log q for states without noise, so
    that no probability is lost to rounding.
    """
    noise = self.noise_at(jnp.arange(self.num_states), t)
    log_q, noise = match_ranks(log_q, noise)
    signal = jax.nn.softmax(log_q) - noise
    some = signal > 0
    left = jnp.where(some, jnp.log(jnp.where(some, signal, 1.0)), -jnp.inf)
    return jnp.where(noise > 0, left, jax.nn.log_softmax(log_q))

  def _noise(
    self, states: Int[Array, '... #K'], t: Time
  ) -> Float[Array, '... #K']:
    """Returns pi_t of states [L, 1] or [K], broadcast with t[..., None]."""
    t = jnp.asarray(t, float)[..., None]
    share = self.share(t)
    rest = 1 - share if self.rest is None else self.rest(t)
    is_mask, share, rest = match_ranks(self.is_mask(states), share, rest)
    return jnp.where(is_mask, share, rest / self.vocab_size)


def absorbing(num_states: int, mask_id: int, schedule: Schedule) -> RankOne:
  """Builds absorbing noise: tokens turn into the mask.

  Args:
    num_states: number of states, including the mask.
    mask_id: id of the mask.
    schedule: noise schedule.
  """
  return RankOne(schedule, jnp.ones_like, num_states, mask_id)


def uniform(
  num_states: int, schedule: Schedule, mask_id: int | None = None
) -> RankOne:
  """Builds uniform noise: tokens are resampled uniformly over the tokens.

  Args:
    num_states: number of states, including the mask if there is one.
    schedule: noise schedule.
    mask_id: id of the mask, which is never drawn; None for no mask.
  """
  return RankOne(schedule, jnp.zeros_like, num_states, mask_id)


@dataclasses.dataclass(frozen=True)
class Constant:
  """Noise that becomes the mask with the same probability at all times.

  Attributes:
    value: that probability, pi_t(mask), in [0, 1]. The rest of pi_t is uniform.
  """

  value: float

  def __post_init__(self) -> None:
    if not 0 <= self.value <= 1:
      raise UserError(f'a share of {self.value}: must be in [0, 1]')

  def __call__(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    return jnp.full_like(t, self.value)


def mixture(
  num_states: int, mask_id: int, schedule: Schedule, uniform_share: float
) -> RankOne:
  """Builds a mixture of mask and uniform noise in a fixed proportion (XDLM).

  Args:
    num_states: number of states, including the mask.
    mask_id: id of the mask.
    schedule: noise schedule.
    uniform_share: share of the uniform noise, k in [0, 1].
  """
  if uniform_share == 0:
    return absorbing(num_states, mask_id, schedule)
  share, rest = Constant(1 - uniform_share), Constant(uniform_share)
  return RankOne(schedule, share, num_states, mask_id, rest)


@pytree
class Hybrid:
  """The schedule and the mask share of GIDD (von Rütte et al. 2025).

  alpha = (1 - t) / (1 + c) and share = t / (t + c), where
  c = b (t (1 - t))^(gamma / 2) and b = 2^gamma p / (1 - p).

  Attributes:
    p_uniform: p, in [0, 1), the probability that a token is uniform noise at
      t = 1/2, where it is largest; 0 is masked diffusion.
    gamma: in (0, 2), the shape of c over time: flat for small gamma, with a
      peak at t = 1/2 for large gamma.
  """

  p_uniform: float = static(default=0.1)
  gamma: float = static(default=1.0)

  def __post_init__(self) -> None:
    if not 0 <= self.p_uniform < 1:
      raise UserError(f'p_uniform={self.p_uniform}: must be in [0, 1)')
    if not 0 < self.gamma < 2:
      raise UserError(f'gamma={self.gamma}: must be in (0, 2)')

  def __call__(self, t: Time) -> NoiseLevel:
    t = jnp.asarray(t, float)[..., None]
    # The rate is the derivative of the signal, as that of the noise cancels at
    # t = 1.
    signal = lambda t: (1 - t) / (1 + self._c(t))
    alpha, slope = jax.jvp(signal, (t,), (jnp.ones_like(t),))
    noise = (t + self._c(t)) / (1 + self._c(t))
    log_alpha = jnp.where(noise < 0.5, jnp.log1p(-noise), jnp.log(alpha))
    return NoiseLevel(log_alpha, jnp.log(noise), -slope)

  def share(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """Returns the share of the mask, t / (t + c).

    Both parts are divided by t^(gamma / 2), so that share(0) = 0.
    """
    masked, spread = self._parts(t)
    return masked / (masked + spread)

  def rest(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    """Returns 1 - share = c / (t + c)."""
    masked, spread = self._parts(t)
    return spread / (masked + spread)

  def _parts(
    self, t: Float[Array, '*shape']
  ) -> tuple[Float[Array, '*shape'], Float[Array, '*shape']]:
    half = self.gamma / 2
    return t ** (1 - half), self.odds * (1 - t) ** half

  def _c(self, t: Float[Array, '*shape']) -> Float[Array, '*shape']:
    return self.odds * (t * (1 - t)) ** (self.gamma / 2)

  @property
  def odds(self) -> float:
    """The factor b of c."""
    return 2**self.gamma * self.p_uniform / (1 - self.p_uniform)


def hybrid(num_states: int, mask_id: int, path: Hybrid) -> RankOne:
  """Builds mask and uniform noise in a proportion that changes with t (GIDD).

  Args:
    num_states: number of states, including the mask.
    mask_id: id of the mask.
    path: schedule and share.
  """
  if path.p_uniform == 0:
    return absorbing(num_states, mask_id, path)
  return RankOne(path, path.share, num_states, mask_id, path.rest)
