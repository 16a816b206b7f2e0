"""Event-driven sampling of absorbing processes: one reveal a call."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.numerics import draw, fine_uniform
from textdiffusion.core.types import Array, Key
from textdiffusion.guidance import acceptor_of
from textdiffusion.model import Model
from textdiffusion.samplers.base import Canvas, Sampler, split, take_at
from textdiffusion.samplers.filters import Filter
from textdiffusion.samplers.grid import (
  check_masking,
  clean_logits,
  place_tokens,
  start,
)
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import inverse


class Events(NamedTuple):
  """A chain with one clock for each row.

  Attributes:
    x, log_prob, calls: as in `Chain`.
    log_noise: log(1 - alpha) at the last event.
  """

  x: Int[Array, 'B L']
  log_prob: Float[Array, 'B L']
  calls: Int[Array, '']
  log_noise: Float[Array, ' B']


@dataclasses.dataclass(frozen=True)
class FirstHitting(Sampler):
  """Reveals one token of every row a call, at its own time (Zheng et al. 2024).

  The times at which masked tokens are revealed are known without the network:
  with n masked tokens at noise 1 - alpha, the next reveal is at (1 - alpha)
  u^(1 / n), at a masked position chosen uniformly. There is no grid and no
  discretisation error, and logits are read at one position only.

  Attributes:
    filter: of p(x_i | z).
  """

  filter: Filter = Filter()

  def check(self, model: Model) -> None:
    check_masking(self, model)

  def times(self, model: Model, canvas: Canvas) -> Float[Array, ' N']:
    return grids.uniform(canvas.ids.shape[1])

  def init(self, keys: Key, model: Model, canvas: Canvas) -> Events:
    noise = model.process.schedule(1.0).log_1m_alpha[0]
    clocks = jnp.full(len(canvas.ids), noise)
    return Events(*start(keys, model, canvas), clocks)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Events,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Events:
    p, is_masked = model.process, model.process.is_mask(carry.x)
    key_time, key_place, key_what = split(keys, 3)
    u = jax.vmap(lambda key: fine_uniform(key, ()))(key_time)
    left = jnp.maximum(is_masked.sum(-1), 1)
    log_noise = carry.log_noise + jnp.log(u) / left
    times = jnp.where(t > 0, inverse(p.schedule, log_noise)[:, None], 0.0)
    place = jax.vmap(draw)(key_place, jnp.where(is_masked, 0.0, -jnp.inf))
    x, at = carry.x, times
    hidden, _ = model.hidden(x, times)
    if acceptor_of(model) is None:  # otherwise it depends on all tokens
      hidden, x, at = take_at((hidden, x, times), place[:, None])
    logits = clean_logits(p, model.read(hidden, x, at), x, at)
    is_here = jnp.arange(t.shape[1])[None] == place[:, None]
    return place_tokens(
      key_what,
      carry,
      is_masked & is_here,
      self.filter(logits),
      model,
      logits,
      log_noise=log_noise.astype(carry.log_noise.dtype),
    )

  def takes_constraints(self, model: Model) -> bool:
    return True

  def is_done(self, model: Model, carry: Events) -> Bool[Array, ' B']:
    return ~model.process.is_mask(carry.x).any(-1)
