"""Score entropy (SEDD, Lou et al. 2024) and the head that learns it.

The diffusion-weighted denoising score entropy is `rate_bound` of a `LogScore`
head: r = q_t(y | x) / q_t(z | x) is the exact ratio and s the learnt one. Its
closed forms are here; `Nelbo` adds both ends of time and makes it a bound.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.numerics import log_one_hot, poisson_kl
from textdiffusion.core.types import (
  Array,
  Cavity,
  LogScore,
  Time,
  X,
)
from textdiffusion.objectives.nelbo import masked_bound, rate_bound
from textdiffusion.processes.rank_one import RankOne


@dataclasses.dataclass(frozen=True)
class LogScoreHead:
  """The raw output [L, K] as log q_t(y) / q_t(z): 0 at y = z.

  A mask beside uniform noise is never seen: its score is 0.

  Attributes:
    scale_by_sigma: log(e^sigma - 1) + log(V - 1), V = K states, is taken off,
      so that at a mask of the absorbing process an output of zeros is the ratio
      of an even guess over the K - 1 tokens. sigma = -log alpha, so that the
      first is log(1 - alpha) - log(alpha), exact for a small sigma; where sigma
      is 0, as at a given token, nothing is taken off.
  """

  scale_by_sigma: bool

  def __call__(self, process: Any, raw: Array, x: X, t: Time) -> LogScore:
    states = jnp.arange(process.num_states)
    is_unseen = process.is_mask(states) & (not process.is_absorbing)
    if self.scale_by_sigma:
      level = process.schedule(t)
      log_noise = level.log_1m_alpha - level.log_alpha
      shift = log_noise + math.log(max(process.num_states - 1, 1))
      raw = raw - jnp.where(jnp.isfinite(shift), shift, 0.0)
    value = jnp.where(is_unseen, -jnp.inf, raw)
    return LogScore(jnp.where(states == x[..., None], 0.0, value))


def score_entropy(
  p: RankOne, x0: Array, head: LogScore, z: Array, t: Time
) -> Array:
  """`rate_bound` of a LogScore head: [L] nats per unit of t.

  sum_{y != z} R_t(y -> z) [s_y - r_y log s_y + r_y (log r_y - 1)], theorem 3.6
  of the paper; in closed form for absorbing and for uniform noise. Raises
  TypeError for another head.
  """
  if not isinstance(head, LogScore):
    raise TypeError(
      f'score_entropy takes LogScore heads, not {type(head).__name__}'
    )
  if p.is_absorbing:
    return _absorbing(p, x0, head.value, z, t)
  if p.share is jnp.zeros_like:
    return _uniform(p, x0, head.value, z, t)
  return rate_bound(p, x0, head, z, t)


def _absorbing(p: RankOne, x0: Array, value: Array, z: Array, t: Time) -> Array:
  """The masked bound of s as a law over tokens, and what its total S errs:

  -alpha' / (1 - alpha) [-log(s_x / S) + S / r - 1 - log(S / r)] on masks,
  r = alpha / (1 - alpha). A network that is a softmax has S = r: what is left
  is MDLM's loss (RADD, Ou et al. 2024).
  """
  is_masked, level = p.is_mask(z), p.schedule(t)
  is_token = ~p.is_mask(jnp.arange(p.num_states))
  total = jax.nn.logsumexp(jnp.where(is_token, value, -jnp.inf), axis=-1)
  log_r = (level.log_alpha - level.log_1m_alpha)[..., 0]
  error = jnp.where(is_masked, total - log_r, 0.0)
  weight = (level.rate * jnp.exp(-level.log_1m_alpha))[..., 0]
  of_total = weight * (jnp.expm1(error) - error)
  of_token = masked_bound(p, x0, Cavity(value), z, t)
  return of_token + jnp.where(is_masked, of_total, 0.0)


def _uniform(p: RankOne, x0: Array, value: Array, z: Array, t: Time) -> Array:
  """The ratio r takes three values: 1 between two tokens that are not x, rho =
  q_t(y | x) / q_t(x | x) from x to another, and 1 / rho back."""
  level, rate = p.schedule(t), p.rate(z, t)
  log_noise = level.log_1m_alpha - math.log(p.vocab_size)
  log_rho = log_noise - jnp.logaddexp(level.log_alpha, log_noise)
  states, is_clean = jnp.arange(p.num_states), (z == x0)[..., None]
  back = jnp.where(states == x0[..., None], -log_rho, 0.0)
  log_r = jnp.where(is_clean, log_rho, back)
  if p.mask_id is not None:
    log_r = jnp.where(p.is_mask(states), -jnp.inf, log_r)
  own = log_one_hot(z, p.num_states) == 0
  log_s, log_r = jnp.where(own, 0.0, value), jnp.where(own, 0.0, log_r)
  # Elementwise: cheaper to compute again than to keep [L, K] for the gradient.
  jumps = jax.checkpoint(poisson_kl)(log_r, log_s)
  return (rate * jumps).sum(-1)
