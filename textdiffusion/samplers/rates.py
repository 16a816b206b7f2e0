"""Steps by reverse rates: they assume the rates of t hold until s.

From z the reversed process jumps to y at the rate R_t(y -> z) q_t(y) / q_t(z),
the forward rate back times the ratio that score entropy learns (Lou et al.
2024, section 2). The bridge integrates these rates exactly; the steps here are
first order, for what has rates and no bridge and for numbers of papers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log1m_exp, match_ranks, one_hot
from textdiffusion.core.types import (
  Array,
  Time,
  TokenHead,
  Transition,
  UserError,
)
from textdiffusion.model import Model
from textdiffusion.processes.bridge import to_log_score
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.grid import GridSampler
from textdiffusion.schedules.betas import Tabulated


@dataclasses.dataclass(frozen=True)
class Euler(GridSampler):
  """Jumps with probability (t - s) times the rate at t, cut at 1."""

  def check(self, model: Model) -> None:
    super().check(model)
    check_rates(self, model)

  def transition(self, process: Any) -> Transition:
    return euler(process)


@dataclasses.dataclass(frozen=True)
class TauLeaping(GridSampler):
  """Jumps with probability 1 - exp(-(t - s) rate) (Campbell et al. 2022)."""

  def check(self, model: Model) -> None:
    super().check(model)
    check_rates(self, model)

  def transition(self, process: Any) -> Transition:
    return tau_leaping(process)


def check_rates(sampler: GridSampler, model: Model) -> None:
  """Raises UserError for a process that has no rates."""
  process = model.process
  # Tabulated noise has rates in name only, infinite ones at its end.
  is_tabulated = isinstance(getattr(process, 'schedule', None), Tabulated)
  if not hasattr(process, 'rate') or is_tabulated:
    raise UserError(
      f'{type(sampler).__name__}() needs a process in continuous time, not one '
      'of T steps: use Ancestral()'
    )


def log_rates(
  process: RankOne, head: TokenHead, z: Int[Array, '... L'], t: Time
) -> Float[Array, '... L K']:
  """log of the reverse rates z -> y per unit of t, -inf at y = z.

  At t = 1 a rate may be an infinite hazard times a vanishing ratio: it is taken
  one rounding before, where both are finite and their product is the limit.
  """
  z, t = match_ranks(z, jnp.asarray(t, float))
  t = jnp.minimum(t, 1 - jnp.finfo(t.dtype).epsneg)
  rate = process.rate(z, t)
  ratio = to_log_score(process, head, z, t).value
  moves = (rate > 0) & (ratio > -jnp.inf)
  moves &= ~one_hot(z, process.num_states)
  return jnp.where(
    moves, jnp.log(rate) + jnp.where(moves, ratio, 0.0), -jnp.inf
  )


def euler(process: RankOne) -> Transition:
  """Jumps to y with probability h rate(y), h = t - s; any head.

  Where that exceeds 1 in all, nothing stays and the jumps are normalised.
  """
  return _by_rates(process, lambda log_hazard: jnp.minimum(log_hazard, 0.0))


def tau_leaping(process: RankOne) -> Transition:
  """Jumps with probability 1 - exp(-h sum_y rate(y)), to y in proportion.

  Of one token a second jump makes no sense, so the Poisson numbers of Campbell
  et al. 2022 reduce to whether there is any.
  """
  return _by_rates(process, lambda log_hazard: log1m_exp(-jnp.exp(log_hazard)))


def _by_rates(
  process: RankOne,
  log_chance: Callable[[Array], Array],
) -> Transition:
  """log_chance: log(h total rate) -> log of the chance of a jump."""

  def transition(
    head: TokenHead, xt: Int[Array, '... L'], s: Time, t: Time
  ) -> Categorical:
    s, t = jnp.asarray(s, float), jnp.asarray(t, float)
    xt, s, t = match_ranks(xt, s, t)
    rates = log_rates(process, head, xt, t)
    total = jax.nn.logsumexp(rates, axis=-1, keepdims=True)
    some = total > -jnp.inf
    jump = log_chance(jnp.log(t - s)[..., None] + total)
    to = rates - jnp.where(some, total, 0.0)
    here = one_hot(xt, process.num_states)
    dist = jnp.where(here, log1m_exp(jump), jump + to)
    # At the end no rate is left, only the prediction: SEDD's denoiser.
    last = process.bridge(head, xt, s, t).log_probs
    return Categorical(jnp.where(s[..., None] <= 0, last, dist))

  return transition
