"""The flow of a mixture path: draw a clean token, jump to it or stay.

Discrete flow matching (Gat et al. 2024). A step from t to s draws x ~ p(x | z)
and jumps from z at the rates, y != z,

  kappa' / (1 - kappa) [y = x]  +  v kappa' / (kappa (1 - kappa)) q_t(y | x),

kappa the probability of signal, alpha here. The first carries q_t to q_s; the
second is the corrector, which leaves q_t(. | x) as it is whatever v >= 0. The
jump of an x summed over the posterior of x is one Categorical: no draw of x.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import (
  log1m_exp,
  log_add,
  log_one_hot,
  match_ranks,
  pytree,
  static,
)
from textdiffusion.core.types import (
  Array,
  Time,
  TokenHead,
  Transition,
  UserError,
)
from textdiffusion.core.validation import check_fields, refuse_unused_fields
from textdiffusion.model import Model
from textdiffusion.processes.bridge import to_posterior
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.grid import STEPS, GridSampler, check_rank_one
from textdiffusion.schedules.noise import NoiseLevel


@dataclasses.dataclass(frozen=True)
class Flow(GridSampler):
  """Discrete flow matching: draw a clean token, jump to it or stay.

  Attributes:
    corrector: size of v(t) = corrector t^noise_power (1 - t)^data_power, the
      rate of jumps that change no marginal; 0 for none.
    data_power, noise_power: of the corrector.
    frozen: whether the rates of t hold for the whole step, as in the official
      code, instead of being integrated over it.
  """

  corrector: float = 0.0
  data_power: float = 0.25
  noise_power: float = 0.25
  frozen: bool = False

  def __post_init__(self) -> None:
    check_fields(
      self,
      steps=STEPS,
      corrector='[0, 1e30]',
      data_power='[0, 1e30]',
      noise_power='[0, 1e30]',
    )
    if not self.corrector:
      names = 'data_power', 'noise_power'
      refuse_unused_fields(self, *names, needs='a corrector above 0')

  def check(self, model: Model) -> None:
    super().check(model)
    check_rank_one(self, model)

  def transition(self, process: Any) -> Transition:
    corrector = None
    if self.corrector:
      powers = self.data_power, self.noise_power
      corrector = Corrector(self.corrector, *powers)
    return flow(process, corrector, self.frozen)


@pytree
class Corrector:
  """v(t) = scale t^noise_power (1 - t)^data_power, t = 1 noise; Gat et al.

  Their alpha_t is 1 + v, their beta_t is v, their time is 1 - t.
  """

  scale: float = static(default=10.0)
  data_power: float = static(default=0.25)
  noise_power: float = static(default=0.25)

  def __post_init__(self) -> None:
    for name in ('scale', 'data_power', 'noise_power'):
      if not getattr(self, name) >= 0:
        raise UserError(
          f'corrector.{name}={getattr(self, name)}: must be at least 0'
        )

  def __call__(self, t: Time) -> Float[Array, '...']:
    t = jnp.asarray(t, float)
    return self.scale * t**self.noise_power * (1 - t) ** self.data_power


def flow(
  process: RankOne,
  corrector: Callable[[Time], Array] | None = None,
  frozen: bool = False,
) -> Transition:
  """The step of discrete flow matching (Gat et al. 2024), for any token head.

  At s = 0 the drawn token is taken, and a token whose t is 0 stays. Without a
  corrector, the step of an absorbing process is its bridge.

  Args:
    process: its path from noise to clean tokens; alpha is the paper's kappa.
    corrector: t -> v(t) >= 0, which adds v(t) of the backward flow and as much
      of the forward one: tokens are noised and drawn again, and the law at each
      time stays. None adds nothing.
    frozen: whether the rates of t hold until s, as in the official Euler
      solver; otherwise they are integrated over the step, which is exact for
      the path of a fixed x and a fixed v.
  """
  rates = _frozen if frozen else _integrated

  def transition(
    head: TokenHead, xt: Int[Array, '... L'], s: Time, t: Time
  ) -> Categorical:
    xt, s, t = match_ranks(xt, s, t)
    log_p = process.clean_log_probs(to_posterior(process, head, xt, t).logits)
    here = log_one_hot(xt, process.num_states)
    s, t = jnp.asarray(s, float)[..., None], jnp.asarray(t, float)[..., None]
    now, then = process.schedule(s[..., 0]), process.schedule(t[..., 0])
    forward, mixing = rates(now, then, t - s)
    if corrector is None:
      logits = log_add(here - forward, log1m_exp(-forward) + log_p)
    else:
      # There is nothing to correct at t = 1: z is a fresh draw of q_1.
      mixing = jnp.where(then.log_alpha > -jnp.inf, corrector(t) * mixing, 0.0)
      logits = _corrected(process, log_p, here, xt, t, forward, mixing)
    logits = jnp.where(s <= 0, log_p, logits)
    return Categorical(jnp.where(t <= 0, here, logits))

  return transition


def _corrected(
  process: RankOne,
  log_p: Float[Array, '... L K'],
  here: Float[Array, '... L K'],
  xt: Int[Array, '... L'],
  t: Float[Array, '... 1'],
  forward: Float[Array, '... 1'],
  mixing: Float[Array, '... 1'],
) -> Float[Array, '... L K']:
  """Returns the log-probabilities of a step with a corrector.

  An x leaves z with hazard forward [x != z] + mixing (1 - q_t(z | x)), and goes
  to each state by its share of the rates; the marginal is linear in x.
  """
  away = jnp.exp(log1m_exp(process.likelihood(xt, t[..., 0])))
  hazard = jnp.where(here == 0, 0.0, forward) + mixing * away
  moves = log1m_exp(-hazard)
  share = log_p + jnp.where(hazard > 0, moves - jnp.log(hazard), 0.0)
  total = jax.nn.logsumexp(share, axis=-1, keepdims=True)
  mixed = process.marginal(share, t[..., 0]).log_probs + total
  jumps = log_add(jnp.log(forward) + share, jnp.log(mixing) + mixed)
  stays = jax.nn.logsumexp(log_p - hazard, axis=-1, keepdims=True)
  return jnp.where(here == 0, stays, jumps)


def _frozen(
  now: NoiseLevel, then: NoiseLevel, length: Float[Array, '... 1']
) -> tuple[Float[Array, '... 1'], Float[Array, '... 1']]:
  """Both rates at t times the length of the step; v = 1."""
  forward = then.rate * jnp.exp(-then.log_1m_alpha) * length
  return forward, forward * jnp.exp(-then.log_alpha)


def _integrated(
  now: NoiseLevel, then: NoiseLevel, length: Float[Array, '... 1']
) -> tuple[Float[Array, '... 1'], Float[Array, '... 1']]:
  """Both rates integrated over the step; v = 1."""
  forward = then.log_1m_alpha - now.log_1m_alpha
  return forward, forward + now.log_alpha - then.log_alpha
