"""Ancestral steps: any process by its bridge, absorbing ones by reveals."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import flip, log1m_exp
from textdiffusion.core.types import (
  Array,
  C,
  DenoiseFn,
  Key,
  Step,
  Time,
  Transition,
)
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.base import Chain
from textdiffusion.samplers.grid import clean_logits
from textdiffusion.samplers.grid import greedy_at_end as _greedy_logits


def start_chain(x: Array) -> Chain:
  """[B, L] ids -> a chain that has called no network."""
  return Chain(x, jnp.zeros(x.shape, jnp.float32), jnp.zeros((), jnp.int32))


def draw_rows(key: Key, dist: Any) -> Array:
  """A draw whose row i depends on the key and i only; leaves lead with B."""
  keys = row_keys(key, jnp.arange(jax.tree.leaves(dist)[0].shape[0]))
  return jax.vmap(lambda key, dist: dist.sample(key))(keys, dist)


def walk(transition: Transition, denoise: DenoiseFn) -> Step[Chain]:
  """The memoryless step; with `process.bridge` it is ancestral sampling."""

  def step(key: Key, carry: Chain, s: Time, t: Time) -> Chain:
    dist = transition(denoise(carry.x, t), carry.x, s, t)
    x = draw_rows(key, dist).astype(carry.x.dtype)
    log_prob = dist.log_prob(x).astype(jnp.float32)
    return Chain(
      x, jnp.where(x == carry.x, carry.log_prob, log_prob), carry.calls + 1
    )

  return step


def greedy_at_end(transition: Transition) -> Transition:
  """`transition`, but of a last interval, s = 0, the likeliest tokens."""

  def ending(head: Any, xt: Array, s: Time, t: Time) -> Categorical:
    dist: Any = transition(head, xt, s, t)
    return Categorical(_greedy_logits(dist.logits, s))

  return ending


def reveal(
  process: RankOne,
  denoise: DenoiseFn,
  skip: bool = False,
  greedy: bool = False,
) -> Step[Chain]:
  """`walk(process.bridge, denoise)` for an absorbing process, in two draws.

  First who is revealed, with probability (alpha_s - alpha_t) / (1 - alpha_t);
  then, of the network's distribution, as what. A small step never enters the
  softmax, so its probabilities are not lost in float32. The last interval
  reveals whatever is left.

  Args:
    skip: call no network in an interval that reveals nothing. The samples are
      the same to the bit, as the first draw does not depend on the network.
    greedy: the last interval reveals the likeliest tokens.
  """

  def step(key: Key, carry: Chain, s: Time, t: Time) -> Chain:
    key_who, key_what = jax.random.split(key)
    now, then = process.schedule(s), process.schedule(t)
    left = jnp.where(
      jnp.asarray(s)[..., None] <= 0,
      -jnp.inf,
      now.log_1m_alpha - then.log_1m_alpha,
    )
    log_chance = jnp.broadcast_to(log1m_exp(left)[..., 0], carry.x.shape)
    keys = row_keys(key_who, jnp.arange(len(carry.x)))
    is_revealed = jax.vmap(flip)(keys, log_chance) & process.is_mask(carry.x)

    def call(carry: Chain) -> Chain:
      head = denoise(carry.x, t)
      logits = clean_logits(process, head, carry.x, t)
      logits = _greedy_logits(logits, s) if greedy else logits
      dist = Categorical(logits)
      x = draw_rows(key_what, dist)
      log_prob = dist.log_prob(x).astype(jnp.float32)
      return Chain(
        jnp.where(is_revealed, x, carry.x).astype(carry.x.dtype),
        jnp.where(is_revealed, log_prob, carry.log_prob),
        carry.calls + 1,
      )

    if not skip:
      return call(carry)
    return jax.lax.cond(is_revealed.any(), call, lambda carry: carry, carry)

  return step


def constrained(step: Step[Any], fix: Callable[[Array], Array]) -> Step[Any]:
  """`step` between two projections of x, such as onto an anchor.

  No way to condition: under a shared time it is exact for absorbing processes
  only, and not at t = 1. `at_times_of` is exact for all.
  """

  def projected(key: Key, carry: Any, s: Time, t: Time) -> Any:
    carry = step(key, carry._replace(x=fix(carry.x)), s, t)
    return carry._replace(x=fix(carry.x))

  return projected


def at_times_of(step: Step[C], is_given: Array) -> Step[C]:
  """`step` with t_i = 0 for given tokens: exact for every process.

  is_given: [B, L]. Given tokens stay as they are; the others follow the law
  conditional on them.
  """

  def conditional(key: Key, carry: C, s: Time, t: Time) -> C:
    zero = lambda time: jnp.where(is_given, 0.0, time)
    return step(key, carry, zero(s), zero(t))

  return conditional
