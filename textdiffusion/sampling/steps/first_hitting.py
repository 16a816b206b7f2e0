"""Event-driven sampling of absorbing processes: one reveal a call.

The times at which masked tokens are revealed are known without the network;
going from event to event needs no grid and leaves no discretisation error
(first-hitting sampler, Zheng et al. 2024).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import draw, fine_uniform
from textdiffusion.core.types import Array, DenoiseFn, Key, Step, Time
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.sampling.steps.ancestral import clean_logits
from textdiffusion.schedules.noise import inverse


class Events(NamedTuple):
  """A chain with a clock of its own: log_noise [B] is log(1 - alpha)."""

  x: Array
  log_prob: Array
  calls: Array
  log_noise: Array


def first_hitting(
  process: RankOne, denoise: DenoiseFn, is_given: Array
) -> Step[Events]:
  """Reveals one token of every unfinished row; the grid's times are not used.

  With n masked tokens at noise 1 - alpha, the next reveal is at
  (1 - alpha) u^(1 / n), at a masked position chosen uniformly.

  Args:
    is_given: [B, L], for the times told to the network: 0 where given.
  """

  def step(key: Key, carry: Events, s: Time, t: Time) -> Events:
    is_masked = process.is_mask(carry.x)
    count = is_masked.sum(-1)
    key_time, key_place, key_what = jax.random.split(key, 3)
    rows = jnp.arange(len(carry.x))

    def call(carry: Events) -> Events:
      u = jax.vmap(lambda k: fine_uniform(k, ()))(row_keys(key_time, rows))
      log_noise = carry.log_noise + jnp.log(u) / jnp.maximum(count, 1)
      time = inverse(process.schedule, log_noise)[:, None]
      times = jnp.where(is_given, 0.0, time)
      logits = clean_logits(process, denoise(carry.x, times), carry.x, times)
      place = jax.vmap(draw)(
        row_keys(key_place, rows), jnp.where(is_masked, 0.0, -jnp.inf)
      )
      here = jnp.take_along_axis(logits, place[:, None, None], axis=1)[:, 0]
      token = jax.vmap(draw)(row_keys(key_what, rows), here)
      log_prob = jnp.take_along_axis(
        jax.nn.log_softmax(here), token[:, None], axis=1
      )
      is_revealed = is_masked & (
        jnp.arange(carry.x.shape[1])[None] == place[:, None]
      )
      return Events(
        jnp.where(is_revealed, token[:, None], carry.x).astype(carry.x.dtype),
        jnp.where(is_revealed, log_prob.astype(jnp.float32), carry.log_prob),
        carry.calls + 1,
        log_noise.astype(carry.log_noise.dtype),
      )

    return jax.lax.cond(count.any(), call, lambda carry: carry, carry)

  return step
