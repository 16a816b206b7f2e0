"""Score entropy (SEDD, Lou et al. 2024) and the head that learns it.

The diffusion-weighted denoising score entropy is `rate_bound` with a `LogScore`
head: r = q_t(y | x) / q_t(z | x) is the exact ratio, and s the learnt one. This
module has its closed forms. `Nelbo` adds the terms for both ends of time, which
make it a bound.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.numerics import match_ranks, one_hot, poisson_kl
from textdiffusion.core.types import (
  Array,
  Cavity,
  LogScore,
  Time,
  X,
)
from textdiffusion.objectives.nelbo import masked_bound, rate_bound
from textdiffusion.processes.bridge import without_mask
from textdiffusion.processes.rank_one import RankOne


@dataclasses.dataclass(frozen=True)
class LogScoreHead:
  """Turns raw outputs [L, K] into log q_t(y) / q_t(z), which is 0 at y = z.

  With uniform noise the mask never occurs, so its score is 0 (log score -inf).

  Attributes:
    scale_by_sigma: whether log(e^sigma - 1) + log(K - 1) is subtracted. Then,
      at a mask of the absorbing process, an output of zeros is the ratio of a
      uniform prediction over the K - 1 tokens. As sigma = -log alpha, the first
      summand is computed as log(1 - alpha) - log(alpha), which is precise for
      small sigma. If sigma is 0, as at a given token, nothing is subtracted.
  """

  scale_by_sigma: bool

  def __call__(
    self, process: RankOne, raw: Float[Array, '... L K'], x: X, t: Time
  ) -> LogScore:
    x, t = match_ranks(x, t)
    if self.scale_by_sigma:
      level = process.schedule(t)
      log_noise = level.log_1m_alpha - level.log_alpha
      shift = log_noise + math.log(max(process.num_states - 1, 1))
      raw = raw - jnp.where(jnp.isfinite(shift), shift, 0.0)
    never_occurs = None if process.is_absorbing else process.mask_id
    value = without_mask(never_occurs, raw)
    return LogScore(jnp.where(one_hot(x, process.num_states), 0.0, value))


def score_entropy(
  p: RankOne,
  x0: Int[Array, '... L'],
  head: LogScore,
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes `rate_bound` with a LogScore head at time t.

  sum_{y != z} R_t(y -> z) [s_y - r_y log s_y + r_y (log r_y - 1)] (theorem 3.6
  of the paper), in closed form for absorbing and uniform noise.

  Args:
    p: a rank-one process.
    x0: [L] clean tokens.
    head: the score at x_t.
    z: [L] noisy tokens.
    t: time.

  Returns:
    [L] nats per unit of t.

  Raises:
    TypeError: the head is not a LogScore.
  """
  if not isinstance(head, LogScore):
    raise TypeError(
      f'score_entropy takes LogScore heads, not {type(head).__name__}'
    )
  x0, z, t = match_ranks(x0, z, t)
  if p.is_absorbing:
    return _absorbing(p, x0, head.value, z, t)
  if p.share is jnp.zeros_like:
    return _uniform(p, x0, head.value, z, t)
  return rate_bound(p, x0, head, z, t)


def _absorbing(
  p: RankOne,
  x0: Int[Array, '... L'],
  value: Float[Array, '... L K'],
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes the score entropy of absorbing noise.

  On masks it is -alpha' / (1 - alpha) [-log(s_x / S) + S / r - 1 - log(S / r)],
  where S is the sum of s over the tokens and r = alpha / (1 - alpha). This is
  the masked bound of s / S plus the error of S. If the network outputs a
  softmax, S = r, and the loss is that of MDLM (RADD, Ou et al. 2024).
  """
  is_masked, level = p.is_mask(z), p.schedule(t)
  total = jax.nn.logsumexp(without_mask(p.mask_id, value), axis=-1)
  log_r = (level.log_alpha - level.log_1m_alpha)[..., 0]
  error = jnp.where(is_masked, total - log_r, 0.0)
  weight = (level.rate * jnp.exp(-level.log_1m_alpha))[..., 0]
  total_loss = weight * (jnp.expm1(error) - error)
  token_loss = masked_bound(p, x0, Cavity(value), z, t)
  return token_loss + jnp.where(is_masked, total_loss, 0.0)


def _uniform(
  p: RankOne,
  x0: Int[Array, '... L'],
  value: Float[Array, '... L K'],
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes the score entropy of uniform noise.

  The ratio r takes three values: 1 between two tokens other than x, rho =
  q_t(y | x) / q_t(x | x) from x to another token, and 1 / rho back.
  """
  level, rate = p.schedule(t), p.rate(z, t)
  log_noise = level.log_1m_alpha - math.log(p.vocab_size)
  log_rho = log_noise - jnp.logaddexp(level.log_alpha, log_noise)
  back = jnp.where(one_hot(x0, p.num_states), -log_rho, 0.0)
  log_r = jnp.where((z == x0)[..., None], log_rho, back)
  log_r = without_mask(p.mask_id, log_r)
  own = one_hot(z, p.num_states)
  log_s, log_r = jnp.where(own, 0.0, value), jnp.where(own, 0.0, log_r)
  # This is elementwise, so recomputing it in the backward pass is cheaper than
  # storing [L, K].
  jumps = jax.checkpoint(poisson_kl)(log_r, log_s)
  return (rate * jumps).sum(-1)
