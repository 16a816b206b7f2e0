"""Surrogates of the rank-one bound: the same divergence with other weights.

The weights of the bound grow without limit at both ends of time, where most of
its variance comes from. GIDD (von Rütte et al. 2025) trains on these surrogates
and reports the bound.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.numerics import match_ranks
from textdiffusion.core.types import Array, Head, Time, UserError
from textdiffusion.objectives.nelbo import bound_weight, rank_one_divergence
from textdiffusion.processes.rank_one import Hybrid, RankOne
from textdiffusion.schedules.noise import Schedule


@dataclasses.dataclass(frozen=True)
class Reweighted:
  """KL(q(. | x) || q(. | xhat)) + rho - log rho - 1, times a bounded weight.

  The bound has the weight R/q.

  Attributes:
    kind: 'clipped' clips R/q to the limits. 'dynamic' keeps the ratio between
      the weights of different tokens at the same time: b / alpha for z = x, 1
      for another token, 2 for the mask. 'released' is the dynamic weight of the
      official code, which differs in two points: it takes sigmoid(-t) for the
      log-SNR, with the opposite sign, and it counts the mask as a token. It
      needs the `Hybrid` schedule.
    least: lower limit of the weight.
    most: upper limit of the weight.
  """

  kind: Literal['clipped', 'dynamic', 'released']
  least: float = 0.0
  most: float = 2.0

  def __post_init__(self) -> None:
    if not 0 <= self.least < self.most:
      raise UserError(
        f'weights from {self.least} to {self.most}: need 0 <= least < most'
      )

  def weight(
    self, p: RankOne, x0: Int[Array, '... L'], z: Int[Array, '... L'], t: Time
  ) -> Float[Array, '... L']:
    """Computes the weight of the divergence.

    Args:
      p: a rank-one process.
      x0: [L] clean tokens.
      z: [L] noisy tokens.
      t: time.

    Returns:
      [L] weights in [least, most], or 0 where the weight of the bound is 0.
    """
    x0, z, t = match_ranks(x0, z, t)
    signal = p.schedule(t).log_alpha[..., 0]
    if self.kind == 'clipped':
      exact = bound_weight(p, x0, z, t)
      weight = exact * jnp.exp(-signal)
      clipped = jnp.clip(weight, self.least, self.most)
      # Where the bound has no weight (visible tokens), clipping would add some.
      return jnp.where(exact > 0, clipped, 0.0)
    same = jnp.exp(p.log_noise(x0, t)[..., 0] - signal)
    if self.kind == 'released':
      same = _released(p.schedule, p.num_states, t)
    weight = jnp.where(z == x0, same, jnp.where(p.is_mask(z), 2.0, 1.0))
    return jnp.clip(weight, self.least, self.most)

  def __call__(
    self,
    p: RankOne,
    x0: Int[Array, '... L'],
    head: Head,
    z: Int[Array, '... L'],
    t: Time,
  ) -> Float[Array, '... L']:
    """Returns [L] losses; the signature is that of a `Bound`, but it is none.

    Args:
      p: a rank-one process.
      x0: [L] clean tokens.
      head: any token head at x_t.
      z: [L] noisy tokens.
      t: time.
    """
    x0, z, t = match_ranks(x0, z, t)
    nats = rank_one_divergence(p, x0, head, z, t)
    signal = jnp.exp(p.schedule(t).log_alpha[..., 0])
    return self.weight(p, x0, z, t) * signal * nats


def _released(
  schedule: Schedule, num_states: int, t: Time
) -> Float[Array, '...']:
  """Returns the official weight of tokens with z = x."""
  if not isinstance(schedule, Hybrid):
    raise TypeError(
      f'released weights are of a Hybrid schedule, not '
      f'{type(schedule).__name__}'
    )
  growth = schedule.gamma / 2 * jax.nn.sigmoid(-jnp.asarray(t, float))
  return schedule.odds / num_states * jnp.exp(growth)
