"""Calls that mend a state at one time: Gibbs correctors, self-correction."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import Array, DenoiseFn, Key, Step, Time
from textdiffusion.processes.bridge import TokenProcess, to_cavity
from textdiffusion.sampling.filters import filtered
from textdiffusion.sampling.steps.ancestral import (
  Chain,
  clean_logits,
  draw_rows,
)
from textdiffusion.sampling.steps.ordered import first, random_score


def corrected(step: Step[Any], corrector: Step[Any], num: int) -> Step[Any]:
  """`step` to s, then `num` times `corrector` at s (Song et al. 2021).

  A corrector is a step from s to s that leaves q_s as it is.
  """

  def both(key: Key, carry: Any, s: Time, t: Time) -> Any:
    keys = jax.random.split(key, num + 1)
    carry = step(keys[0], carry, s, t)
    return jax.lax.fori_loop(
      0, num, lambda i, carry: corrector(keys[i + 1], carry, s, s), carry
    )

  return both


def gibbs(
  process: TokenProcess,
  denoise: DenoiseFn,
  is_given: Array,
  tokens: int,
  reshape: Callable[[Array], Array] = lambda logits: logits,
) -> Step[Chain]:
  """Redraws `tokens` places of a row, chosen at random, given the others.

  z_i ~ q_t(z_i | z without z_i), the marginal of the cavity: with one place and
  an exact denoiser q_t is left as it is; several are drawn independently. Of an
  absorbing process the chosen places are visible and stay so: they are masked
  for the call, and drawn from what it says.

  Args:
    is_given: [B, L], never chosen.
    reshape: of the logits of p(x_i | z without z_i), [..., K] -> [..., K]: a
      filter of the posterior would keep z_i, and nothing would be redrawn.
  """

  def step(key: Key, carry: Chain, s: Time, t: Time) -> Chain:
    key_where, key_what = jax.random.split(key)
    is_free = ~is_given & ~(process.is_absorbing & process.is_mask(carry.x))
    score = random_score(key_where, carry.x.shape)
    is_chosen = first(score, is_free, tokens)
    z = carry.x
    if process.is_absorbing and process.mask_id is not None:
      z = jnp.where(is_chosen, process.mask_id, z)
    head = denoise(z, t)
    if process.is_absorbing and process.mask_id is not None:
      dist = Categorical(reshape(clean_logits(process, head, z, t)))
    else:
      cavity = to_cavity(process, head, z, t).logits
      dist = process.marginal(reshape(process.clean_log_probs(cavity)), t)
    x = draw_rows(key_what, dist)
    log_prob = dist.log_prob(x).astype(jnp.float32)
    return Chain(
      jnp.where(is_chosen, x, carry.x).astype(carry.x.dtype),
      jnp.where(is_chosen, log_prob, carry.log_prob),
      carry.calls + 1,
    )

  return step


class Settling(NamedTuple):
  """A chain that is searched further. is_settled: [B] no token would gain."""

  x: Array
  log_prob: Array
  calls: Array
  is_settled: Array


def then_settle(step: Step[Chain], settle: Step[Settling]) -> Step[Settling]:
  """`step` over a grid's intervals, `settle` over those from 0 to 0 after it.

  Calls nothing once all rows are settled.
  """

  def either(key: Key, carry: Settling, s: Time, t: Time) -> Settling:
    def walk(carry: Settling) -> Settling:
      return Settling(*step(key, Chain(*carry[:3]), s, t), carry.is_settled)

    def search(carry: Settling) -> Settling:
      return jax.lax.cond(
        carry.is_settled.all(),
        lambda carry: carry,
        lambda carry: settle(key, carry, s, t),
        carry,
      )

    return jax.lax.cond(jnp.asarray(t) > 0, walk, search, carry)

  return either


def self_correct(
  process: TokenProcess,
  denoise: DenoiseFn,
  is_given: Array,
  temperature: float,
  time: float,
) -> Step[Settling]:
  """GIDD's self-correction (von Rütte et al. 2025): one token a row a call.

  Every place proposes a token drawn at `temperature` from p(x_i | x without
  x_i); the one that gains most probability over the token that stands there is
  taken, if any gains. A row is settled when every token is its likeliest.

  Args:
    is_given: [B, L], never changed and told to be at t = 0.
    time: told of the others.
  """

  def step(key: Key, carry: Settling, s: Time, t: Time) -> Settling:
    times = jnp.where(is_given, 0.0, time)
    head = denoise(carry.x, times)
    cavity = to_cavity(process, head, carry.x, times)
    log_p = process.clean_log_probs(cavity.logits)
    proposals = Categorical(filtered(log_p, temperature, 0, 1.0))
    x = draw_rows(key, proposals).astype(carry.x.dtype)
    plain = Categorical(log_p)
    new, old = plain.log_prob(x), plain.log_prob(carry.x)
    gain = jnp.exp(new) - jnp.exp(old)
    is_taken = first(gain, ~is_given & (gain > 0), 1)
    is_likeliest = is_given | (old >= log_p.max(-1))
    return Settling(
      jnp.where(is_taken, x, carry.x),
      jnp.where(is_taken, new.astype(jnp.float32), carry.log_prob),
      carry.calls + 1,
      is_likeliest.all(-1),
    )

  return step
