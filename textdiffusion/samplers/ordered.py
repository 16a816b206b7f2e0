"""Decoding of absorbing processes in an order: some masked tokens a call.

Where the order depends on the visible tokens and on the distributions of the
network, and never on the token about to be drawn, one token a call follows the
law of an exact denoiser in any order, by the chain rule.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from textdiffusion.core.numerics import expect, fine_uniform
from textdiffusion.core.types import Array, Key
from textdiffusion.core.validation import check_fields
from textdiffusion.model import Model
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.base import Canvas, Chain, Sampler, split
from textdiffusion.samplers.filters import Filter
from textdiffusion.samplers.grid import (
  check_masking,
  clean_logits,
  place_tokens,
  start,
)
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import inverse

Confidence = Literal['confidence', 'margin', 'entropy']


@dataclasses.dataclass(frozen=True)
class Ordered(Sampler):
  """Draws the next `tokens` masked tokens of every row, in a chosen order.

  Attributes:
    by: 'left_to_right', 'random', or where the network is most certain:
      'confidence' (the largest probability), 'margin' (over the second
      largest), 'entropy' (the lowest). The filter does not change the order.
    tokens: tokens drawn in one call, each given what was visible before. More
      than one do not follow the law of an exact denoiser.
    filter: of p(x_i | z).
  """

  by: Literal['left_to_right', 'random', 'confidence', 'margin', 'entropy'] = (
    'confidence'
  )
  tokens: int = 1
  filter: Filter = Filter()

  def __post_init__(self) -> None:
    check_fields(self, tokens='[1, inf)')

  def check(self, model: Model) -> None:
    check_masking(self, model)

  def times(self, model: Model, canvas: Canvas) -> Float[Array, ' N']:
    return grids.uniform(-(-canvas.ids.shape[1] // self.tokens))

  def init(self, keys: Key, model: Model, canvas: Canvas) -> Chain:
    return start(keys, model, canvas)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Chain,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Chain:
    p, is_masked = model.process, model.process.is_mask(carry.x)
    key_order, key_what = split(keys)
    times = jnp.where(t > 0, time_of_masks(p, is_masked, t > 0), 0.0)
    logits = clean_logits(p, model(carry.x, times).head, carry.x, times)
    if self.by == 'left_to_right':
      score = -jnp.arange(t.shape[1], dtype=jnp.float32)[None]
    elif self.by == 'random':
      score = random_scores(key_order, t.shape[1])
    else:
      score = certainty(self.by, logits)
    is_next = highest(score, is_masked, self.tokens)
    return place_tokens(
      key_what, carry, is_next, self.filter(logits), model, logits
    )

  def takes_constraints(self, model: Model) -> bool:
    return True

  def is_done(self, model: Model, carry: Chain) -> Bool[Array, ' B']:
    return ~model.process.is_mask(carry.x).any(-1)


def highest(
  score: Float[Array, '... L'], is_free: Bool[Array, 'B L'], count: int
) -> Bool[Array, 'B L']:
  """Returns True at the `count` free places of highest score, or all.

  Of equal scores the left one comes first.
  """
  score = jnp.where(is_free, score, -jnp.inf)
  rank = jnp.argsort(jnp.argsort(-score, axis=-1, stable=True), axis=-1)
  return is_free & (rank < count)


def random_scores(keys: Key, length: int) -> Float[Array, 'B L']:
  """[B] keys -> uniform numbers."""
  return jax.vmap(lambda key: fine_uniform(key, (length,)))(keys)


def certainty(
  by: Confidence, logits: Float[Array, '... K']
) -> Float[Array, '...']:
  """Returns the `confidence`, `margin` or minus the `entropy`."""
  log_p = jax.nn.log_softmax(logits)
  if by == 'entropy':
    return expect(log_p, log_p).sum(-1)
  best, second = jnp.moveaxis(jax.lax.top_k(jnp.exp(log_p), 2)[0], -1, 0)
  return best if by == 'confidence' else best - second


def time_of_masks(
  process: RankOne, is_masked: Bool[Array, 'B n'], is_free: Bool[Array, 'B n']
) -> Float[Array, 'B 1']:
  """Returns the time at which as many of the free tokens are masked,
  1 - alpha = their share; of a row without a mask, as with one."""
  free = jnp.maximum(is_free.sum(-1), 1)
  noise = jnp.log(jnp.maximum(is_masked.sum(-1), 1) / free)
  return inverse(process.schedule, noise)[:, None]
