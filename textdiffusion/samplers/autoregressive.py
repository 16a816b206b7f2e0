"""Left-to-right sampling with a cache; rows may have prompts of any length."""

import dataclasses
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import (
  Array,
  Key,
  PyTree,
  UserError,
  leading,
)
from textdiffusion.core.types import Causal as CausalHead
from textdiffusion.model import Model
from textdiffusion.nn.network import Causal, commit, write_at
from textdiffusion.samplers.base import Canvas, Sampler, draw_rows, take_at
from textdiffusion.samplers.filters import Filter
from textdiffusion.schedules import grids


class Prompts(NamedTuple):
  """Lengths of the prompts of a canvas.

  Attributes:
    lengths: given tokens before the first free one.
    shortest, longest: of all rows. Under jit, where the canvas has no values, 0
      and L.
  """

  lengths: Int[Array, ' B']
  shortest: int
  longest: int

  @classmethod
  def from_canvas(cls, canvas: Canvas) -> 'Prompts':
    """Counts given tokens."""
    is_given = canvas.is_given
    if isinstance(is_given, Tracer):
      return cls(leading(is_given), 0, is_given.shape[1])
    lengths = leading(np.asarray(is_given))
    return cls(jnp.asarray(lengths), int(lengths.min()), int(lengths.max()))


def prefilled_cache(
  model: Model,
  x: Int[Array, 'B L'],
  lengths: Int[Array, ' B'],
  longest: int,
) -> PyTree:
  """Returns a cache of the first tokens of each row, by one network call.

  Args:
    model: whose network has a cache.
    x: tokens.
    lengths: tokens of each row that later calls may attend to.
    longest: at least the largest of `lengths`; 0 makes no call.
  """
  rows, length = x.shape
  cache = model.new_cache(rows, length)
  if not longest:
    return cache
  places = jnp.broadcast_to(jnp.arange(longest), (rows, longest))
  _, cache = model.with_view(positions=places, segments=None).hidden(
    x[:, :longest], 0.0, cache
  )
  return commit(cache, places, places < lengths[:, None])


class Writing(NamedTuple):
  """The state of left-to-right sampling.

  Attributes:
    x, log_prob, calls: as in `Chain`.
    cache: keys and values of the tokens so far.
    place: position of the next token of each row.
    is_ended: True for rows whose end of the document has been drawn.
  """

  x: Int[Array, 'B L']
  log_prob: Float[Array, 'B L']
  calls: Int[Array, '']
  cache: PyTree
  place: Int[Array, ' B']
  is_ended: Bool[Array, ' B']


@dataclasses.dataclass(frozen=True)
class LeftToRight(Sampler):
  """Autoregression. Each row is at a position of its own.

  Attributes:
    filter: of p(x_i | x_0 ... x_{i-1}).
    stop_at_eos: whether a row ends when the end of the document is drawn.
    bos_id: the token before the first one, as in training; the method sets it.
    eos_id: the end of a document, which also fills the rest of a row that
      ends; the method sets it.
  """

  filter: Filter = Filter()
  stop_at_eos: bool = False
  bos_id: int | None = None
  eos_id: int | None = None

  def check(self, model: Model) -> None:
    if not isinstance(model.view.structure, Causal):
      raise UserError(
        'LeftToRight() needs a method with a causal network, such as '
        'Autoregressive(): use Ancestral()'
      )
    if self.bos_id is None:
      raise UserError(
        'LeftToRight(bos_id=None): needs the id of the token before the first '
        'one; set bos_id'
      )
    if self.stop_at_eos and self.eos_id is None:
      raise UserError(
        'LeftToRight(stop_at_eos=True): the tokenizer has no end of document; '
        'use stop_at_eos=False'
      )

  def times(self, model: Model, canvas: Canvas) -> Float[Array, ' N']:
    shortest = Prompts.from_canvas(canvas).shortest
    return grids.uniform(canvas.ids.shape[1] - shortest)

  def init(self, keys: Key, model: Model, canvas: Canvas) -> Writing:
    assert self.bos_id is not None
    _refuse_gaps(canvas)
    blank = self.bos_id if self.eos_id is None else self.eos_id
    x = jnp.where(canvas.is_given, canvas.ids, blank).astype(jnp.int32)
    bos = jnp.full_like(x[:, :1], self.bos_id)
    inputs = jnp.concatenate([bos, x[:, :-1]], axis=1)
    lengths, _, longest = Prompts.from_canvas(canvas)
    return Writing(
      x,
      jnp.zeros(x.shape, jnp.float32),
      jnp.asarray(int(longest > 0), jnp.int32),
      prefilled_cache(model, inputs, lengths, longest),
      lengths,
      jnp.zeros(len(x), bool),
    )

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Writing,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Writing:
    assert self.bos_id is not None
    place = carry.place[:, None]
    previous = take_at(carry.x, jnp.maximum(place - 1, 0))
    previous = jnp.where(place == 0, self.bos_id, previous)
    head, cache = model.with_view(positions=place, segments=None)(
      previous, 0.0, carry.cache
    )
    if not isinstance(head, CausalHead):
      raise TypeError(
        f'LeftToRight() takes a Causal head, not {type(head).__name__}'
      )
    dist = Categorical(self.filter(head.logits))
    token = draw_rows(keys, dist).astype(carry.x.dtype)
    is_writing = ~self.is_done(model, carry)[:, None]
    slot = jnp.where(is_writing, place, carry.x.shape[1])  # beyond: dropped
    is_ended = carry.is_ended
    if self.stop_at_eos:
      is_ended |= (is_writing & (token == self.eos_id))[:, 0]
    return Writing(
      write_at(carry.x, token, slot),
      write_at(carry.log_prob, dist.log_prob(token), slot),
      carry.calls + 1,
      commit(cache, place, is_writing),
      carry.place + 1,
      is_ended,
    )

  def is_done(self, model: Model, carry: Writing) -> Bool[Array, ' B']:
    return carry.is_ended | (carry.place >= carry.x.shape[1])


def _refuse_gaps(canvas: Canvas) -> None:
  """Raises UserError where a given token stands to the right of a free one."""
  if isinstance(canvas.is_given, Tracer):
    return
  given: Any = np.asarray(canvas.is_given)
  if (given[:, 1:] & ~given[:, :-1]).any():
    raise UserError(
      'an autoregressive model cannot fill in text before given text: its '
      'network attends to the left only; use a prompt, or a diffusion model'
    )
