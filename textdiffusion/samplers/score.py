"""The Tweedie step of score models (SEDD, Lou et al. 2024, section 4.2)."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log1m_exp, match_ranks
from textdiffusion.core.types import (
  Array,
  Time,
  TokenHead,
  Transition,
  UserError,
)
from textdiffusion.model import Model
from textdiffusion.processes.bridge import to_log_score, without_mask
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.grid import GridSampler, check_rank_one


@dataclasses.dataclass(frozen=True)
class Tweedie(GridSampler):
  """The analytic sampler of SEDD (Lou et al. 2024), a step of `tweedie`.

  It needs a schedule that leaves some signal at t = 1, as the ratios of a
  schedule without any are infinite.
  """

  def check(self, model: Model) -> None:
    super().check(model)
    check_rank_one(self, model)
    # Under jit too, unless the schedule itself is traced.
    with jax.ensure_compile_time_eval():
      left = model.process.schedule(1.0).log_alpha
    if not isinstance(left, Tracer) and np.isneginf(left).any():
      raise UserError(
        'Tweedie() steps by ratios, which are undefined where no signal is '
        'left at t = 1: use Ancestral(), or train with a schedule such as '
        'Linear(eps=1e-3)'
      )

  def transition(self, process: Any) -> Transition:
    return tweedie(process)


def tweedie(process: RankOne) -> Transition:
  """The analytic step: (head, x_t [L], s, t) -> [L, K].

  The ratios s_y at t, taken back to time s, times the forward transition:

    p(y) ~ [s_y - b_{t|s}(y) sum_y' s_y'] q_{t|s}(x_t | y),

  b_{t|s} the noise that arrives between s and t. Where the ratios are those of
  a law over clean tokens this is `process.bridge`; of others, the bridge first
  makes such a law, and here only what is negative is cut off. So an absorbing
  process reveals at the rate that the network predicts, sum_y s_y, where the
  bridge reveals at the known one.

  The last step, s = 0, goes to what has no noise at all and yields no mask:
  SEDD's denoiser. A token with t = 0 stays. Needs signal at t (alpha > 0).
  """
  states = jnp.arange(process.num_states)

  def transition(
    head: TokenHead, xt: Int[Array, '... L'], s: Time, t: Time
  ) -> Categorical:
    value = to_log_score(process, head, xt, t).value
    s, t = jnp.asarray(s, float), jnp.asarray(t, float)
    xt, s, t = match_ranks(xt, s, t)
    is_last = ((s <= 0) & (t > 0))[..., None]
    column = process.column(xt, s, t)
    column = jnp.where(is_last, process.likelihood(xt, t), column)
    arrived = process.noise_between(states, s, t)
    arrived = jnp.where(is_last, process.noise_at(states, t), arrived)
    total = jax.nn.logsumexp(value, axis=-1, keepdims=True)
    some = value > -jnp.inf
    taken = jnp.log(arrived) + total - jnp.where(some, value, 0.0)
    before = jnp.where(some, value + log1m_exp(taken), -jnp.inf)
    no_mask = without_mask(process.mask_id, before)
    return Categorical(column + jnp.where(is_last, no_mask, before))

  return transition
