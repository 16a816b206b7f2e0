"""Texts in blocks of tokens, left to right, each by a sampler of whole rows."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from textdiffusion.core.types import Array, Key, UserError, leading
from textdiffusion.core.validation import check_fields
from textdiffusion.model import Model
from textdiffusion.samplers.base import Canvas, Carry, Frame, Sampler, split
from textdiffusion.samplers.edit import EditSteps, InsertAndUnmask
from textdiffusion.samplers.latent import Clamp, Renoise


class BlockChain(NamedTuple):
  """A chain within one block of each row.

  Attributes:
    x, log_prob: the text up to the current block, and noise after it.
    calls: calls of the network so far.
    chain: the carry of the inner sampler.
    canvas: given tokens of the text.
    begin: where the first block of each row begins.
    index: number of the next step.
  """

  x: Int[Array, 'B L']
  log_prob: Float[Array, 'B L']
  calls: Int[Array, '']
  chain: Carry
  canvas: Canvas
  begin: Int[Array, ' B']
  index: Int[Array, '']


@dataclasses.dataclass(frozen=True)
class SemiAutoregressive(Sampler):
  """Generates `size` tokens at a time, given those before them (SSD-LM, Han et
  al. 2023).

  The blocks of a row begin at the end of its prompt. The network attends to no
  token after the current block, and each block takes the whole grid of
  `sampler`.

  Attributes:
    size: tokens of a block.
    sampler: samples a block.
  """

  size: int = 25
  sampler: Sampler = Renoise(clamp=Clamp(token='drawn'))

  def __post_init__(self) -> None:
    check_fields(self, size='[1, inf)')
    if isinstance(self.sampler, InsertAndUnmask | EditSteps):
      raise UserError(
        f'SemiAutoregressive(sampler={type(self.sampler).__name__}()): needs '
        'rows of a fixed length'
      )

  def check(self, model: Model) -> None:
    self.sampler.check(model)

  def times(self, model: Model, canvas: Canvas) -> Float[Array, 'N ...']:
    """Times of the states: a grid for each block, one after another, whose
    start is that of the first."""
    prompt = 0
    if not isinstance(canvas.is_given, Tracer):
      prompt = int(leading(np.asarray(canvas.is_given)).min())
    blocks = -(-(canvas.ids.shape[1] - prompt) // self.size)
    grid = self.sampler.times(model, canvas)
    rest = jnp.concatenate([grid[1:]] * blocks) if blocks else grid[:0]
    return jnp.concatenate([grid[:1], rest])

  def init(self, keys: Key, model: Model, canvas: Canvas) -> BlockChain:
    begin = leading(canvas.is_given)
    whole = self.sampler.init(keys, model, canvas)
    frame = self.sampler.frame(model, whole)
    chain = self._start(keys, model, frame.ids, canvas, begin)
    zero = jnp.zeros((), jnp.int32)
    return BlockChain(*frame, whole.calls, chain, canvas, begin, zero)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: BlockChain,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> BlockChain:
    key_start, key_step = split(keys)
    grid = self.sampler.times(model, carry.canvas)
    steps = len(grid) - 1
    number, place = carry.index // steps, carry.index % steps
    begin = carry.begin + number * self.size
    narrow = self._model(model, carry.canvas, begin)

    def restart(chain: Carry) -> Carry:
      fresh = self._start(key_start, model, carry.x, carry.canvas, begin)
      return fresh._replace(calls=chain.calls)

    is_new = (place == 0) & (number > 0)
    chain = jax.lax.cond(is_new, restart, lambda chain: chain, carry.chain)
    is_free = self._is_free(carry.canvas, begin)
    s, t = (
      jnp.where(is_free, jnp.atleast_2d(time), 0.0)
      for time in (grid[place + 1], grid[place])
    )
    chain = jax.lax.cond(
      self.sampler.is_done(narrow, chain).all(),
      lambda chain: chain,
      lambda chain: self.sampler.step(key_step, narrow, chain, s, t),
      chain,
    )
    carry = carry._replace(
      calls=chain.calls, chain=chain, index=carry.index + 1
    )

    def write() -> tuple[Int[Array, 'B L'], Float[Array, 'B L']]:
      frame = self.frame(model, carry)
      return frame.ids, frame.log_prob

    # Reading features as tokens at every step would cost.
    x, log_prob = jax.lax.cond(
      place == steps - 1, write, lambda: (carry.x, carry.log_prob)
    )
    return carry._replace(x=x, log_prob=log_prob)

  def is_done(self, model: Model, carry: BlockChain) -> Bool[Array, ' B']:
    steps = len(self.sampler.times(model, carry.canvas)) - 1
    begin = carry.begin + carry.index // steps * self.size
    return begin >= carry.x.shape[1]

  def frame(self, model: Model, carry: BlockChain) -> Frame:
    steps = len(self.sampler.times(model, carry.canvas)) - 1
    # Of the last step that was taken.
    number = jnp.maximum(carry.index - 1, 0) // max(steps, 1)
    begin = carry.begin + number * self.size
    is_free = self._is_free(carry.canvas, begin)
    frame = self.sampler.frame(model, carry.chain)
    return Frame(
      jnp.where(is_free, frame.ids, carry.x),
      jnp.where(is_free, frame.log_prob, carry.log_prob),
    )

  def _start(
    self,
    keys: Key,
    model: Model,
    x: Int[Array, 'B L'],
    canvas: Canvas,
    begin: Int[Array, ' B'],
  ) -> Carry:
    """The carry of the inner sampler before the block at `begin`.

    Tokens after the block are given too, so that no call is spent on them.
    """
    places = jnp.arange(x.shape[1])[None]
    # Noise, which may be a mask, is no token to be given.
    ids = jnp.where(places < begin[:, None] + self.size, x, 0)
    here = canvas._replace(ids=ids, is_given=~self._is_free(canvas, begin))
    return self.sampler.init(keys, self._model(model, canvas, begin), here)

  def _is_free(
    self, canvas: Canvas, begin: Int[Array, ' B']
  ) -> Bool[Array, 'B L']:
    """Returns True for the tokens that the block at `begin` samples."""
    since = jnp.arange(canvas.ids.shape[1])[None] - begin[:, None]
    return ~canvas.is_given & (since >= 0) & (since < self.size)

  def _model(
    self, model: Model, canvas: Canvas, begin: Int[Array, ' B']
  ) -> Model:
    """The model without tokens after the block."""
    places = jnp.arange(canvas.ids.shape[1])[None]
    is_there = places < begin[:, None] + self.size
    return model.with_view(segments=is_there.astype(jnp.int32))
