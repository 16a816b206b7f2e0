"""The step of remasking; its laws are those of `samplers.remask`."""

from collections.abc import Callable

import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import (
  DenoiseFn,
  Key,
  Step,
  Time,
  Transition,
)
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.psi import kappa_of, psi  # noqa: F401
from textdiffusion.samplers.remask import (  # noqa: F401
  Amount,
  amount,
  by_confidence,
  most,
  remasking,
)
from textdiffusion.sampling.steps.ancestral import (
  Chain,
  clean_logits,
  draw_rows,
)


def remask(
  process: RankOne,
  denoise: DenoiseFn,
  sigma: Amount,
  confident: bool = False,
  finish: Callable[[Transition], Transition] = lambda transition: transition,
) -> Step[Chain]:
  """The step of `remasking`; log_prob is the network's, 0 at masks.

  Args:
    confident: whether `by_confidence` shares sigma out.
    finish: wraps the transition, such as `greedy_at_end`.
  """

  def step(key: Key, carry: Chain, s: Time, t: Time) -> Chain:
    share = by_confidence(process, sigma, carry) if confident else sigma
    head = denoise(carry.x, t)
    dist = finish(remasking(process, share))(head, carry.x, s, t)
    x = draw_rows(key, dist).astype(carry.x.dtype)
    clean = Categorical(clean_logits(process, head, carry.x, t))
    is_mask = process.is_mask(x)
    log_prob = clean.log_prob(jnp.where(is_mask, process.mask_id == 0, x))
    log_prob = jnp.where(x == carry.x, carry.log_prob, log_prob)
    log_prob = jnp.where(is_mask, 0.0, log_prob).astype(jnp.float32)
    return Chain(x, log_prob, carry.calls + 1)

  return step
