"""Surrogates of the rank-one bound: the same divergence, other weights.

The bound's weights grow without limit at both ends of time, and most of its
variance is there; GIDD trains on these (von Rütte et al. 2025) and
reports the bound.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from textdiffusion.core.types import Array, Time, UserError
from textdiffusion.objectives.nelbo import bound_weight, rank_one_divergence
from textdiffusion.processes.rank_one import Hybrid, RankOne


@dataclasses.dataclass(frozen=True)
class Reweighted:
  """Other weights than R/q of KL(q(. | x) || q(. | xhat)) + rho - log rho - 1.

  kind: 'clipped' is R/q between the limits. 'dynamic' keeps the ratio of the
    weights of seen and moved tokens at a time, b / alpha for z = x, 1 for
    another token, 2 for the mask. 'released' is the dynamic weight as the
    official code has it, which differs in two things: sigmoid(-t) stands for
    the log-SNR, with the other sign, and the mask counts among the tokens; it
    needs the `Hybrid` schedule.
  least, most: limits of the weight.
  """

  kind: Literal['clipped', 'dynamic', 'released']
  least: float = 0.0
  most: float = 2.0

  def __post_init__(self) -> None:
    if not 0 <= self.least < self.most:
      raise UserError(
        f'weights from {self.least} to {self.most}: need 0 <= least < most'
      )

  def weight(self, p: RankOne, x0: Array, z: Array, t: Time) -> Array:
    """[L], in [least, most], or 0 where the bound counts nothing."""
    signal = p.schedule(t).log_alpha[..., 0]
    if self.kind == 'clipped':
      exact = bound_weight(p, x0, z, t)
      weight = exact * jnp.exp(-signal)
      clipped = jnp.clip(weight, self.least, self.most)
      return jnp.where(exact > 0, clipped, 0.0)  # a visible token costs nothing
    same = jnp.exp(p.log_noise(x0, t)[..., 0] - signal)
    if self.kind == 'released':
      same = _released(p.schedule, p.num_states, t)
    weight = jnp.where(z == x0, same, jnp.where(p.is_mask(z), 2.0, 1.0))
    return jnp.clip(weight, self.least, self.most)

  def __call__(
    self, p: RankOne, x0: Array, head: Any, z: Array, t: Time
  ) -> Array:
    """A `Bound` in form only: [L]."""
    nats = rank_one_divergence(p, x0, head, z, t)
    signal = jnp.exp(p.schedule(t).log_alpha[..., 0])
    return self.weight(p, x0, z, t) * signal * nats


def _released(schedule: Any, num_states: int, t: Time) -> Array:
  if not isinstance(schedule, Hybrid):
    raise TypeError(
      f'released weights are of a Hybrid schedule, not '
      f'{type(schedule).__name__}'
    )
  growth = schedule.gamma / 2 * jax.nn.sigmoid(-jnp.asarray(t, float))
  return schedule.odds / num_states * jnp.exp(growth)
