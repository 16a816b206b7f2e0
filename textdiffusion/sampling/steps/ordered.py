"""Decoding of absorbing processes in an order: some masked tokens a call.

Where the order looks at what is visible and at the network's distributions, and
never at what it is about to draw, one token a call follows the law of an exact
denoiser, whatever the order: the chain rule.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import fine_uniform
from textdiffusion.core.types import Array, DenoiseFn, Key, Step, Time
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.ordered import certainty as sureness
from textdiffusion.samplers.ordered import highest as first
from textdiffusion.sampling.settings import Order
from textdiffusion.sampling.steps.ancestral import (
  Chain,
  clean_logits,
  draw_rows,
)
from textdiffusion.schedules.noise import inverse

Reshape = Callable[[Array], Array]  # logits [..., K] -> logits [..., K]


def random_score(key: Key, shape: tuple[int, ...]) -> Array:
  """[B, L] numbers that are uniform; row i depends on the key and i only."""
  keys = row_keys(key, jnp.arange(shape[0]))
  return jax.vmap(lambda key: fine_uniform(key, shape[1:]))(keys)


def ordered(
  process: RankOne,
  denoise: DenoiseFn,
  is_given: Array,
  order: Order,
  reshape: Reshape = lambda logits: logits,
) -> Step[Chain]:
  """Draws the next `order.tokens` masked tokens of every row.

  Args:
    denoise: not filtered, so that a temperature does not change the order.
    is_given: [B, L]; the network is told t = 0 there, elsewhere the time at
      which as many of the free tokens are masked, 1 - alpha = their share.
    order: see `Order`.
    reshape: what is drawn from, such as `filters.filtered`.
  """

  def step(key: Key, carry: Chain, s: Time, t: Time) -> Chain:
    is_masked = process.is_mask(carry.x)
    key_order, key_what = jax.random.split(key)

    def call(carry: Chain) -> Chain:
      free = jnp.maximum((~is_given).sum(-1), 1)
      noise = jnp.log(jnp.maximum(is_masked.sum(-1), 1) / free)
      time = inverse(process.schedule, noise)[:, None]
      times = jnp.where(is_given, 0.0, time)
      head = denoise(carry.x, times)
      logits = clean_logits(process, head, carry.x, times)
      if order.by == 'left_to_right':
        score = -jnp.arange(carry.x.shape[1], dtype=jnp.float32)
      elif order.by == 'random':
        score = random_score(key_order, carry.x.shape)
      else:
        score = sureness(order.by, logits)
      is_next = first(score, is_masked, order.tokens)
      dist = Categorical(reshape(logits))
      x = draw_rows(key_what, dist)
      log_prob = dist.log_prob(x).astype(jnp.float32)
      return Chain(
        jnp.where(is_next, x, carry.x).astype(carry.x.dtype),
        jnp.where(is_next, log_prob, carry.log_prob),
        carry.calls + 1,
      )

    return jax.lax.cond(is_masked.any(), call, lambda carry: carry, carry)

  return step
