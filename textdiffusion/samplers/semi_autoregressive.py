"""Texts in blocks of tokens, left to right, each by a sampler of whole rows."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from textdiffusion.core.types import Array, Key, leading
from textdiffusion.core.validation import check_fields
from textdiffusion.model import Model
from textdiffusion.samplers.base import Canvas, Sampler, split
from textdiffusion.samplers.latent import Clamp, Renoise


class BlockChain(NamedTuple):
  """A chain within one block of each row.

  Attributes:
    x, log_prob: [B, L] the text; of later blocks as the inner sampler has it.
    calls: [] calls of the network so far.
    chain: the carry of the inner sampler.
    canvas: given tokens of the text.
    begin: [B] where the first block of each row begins.
    index: [] number of the next step.
  """

  x: Array
  log_prob: Array
  calls: Array
  chain: Any
  canvas: Canvas
  begin: Array
  index: Array


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

  def check(self, model: Model) -> None:
    self.sampler.check(model)

  def times(self, model: Model, canvas: Canvas) -> Array:
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
    narrow = self._model(model, canvas, begin)
    chain = self.sampler.init(keys, narrow, canvas)
    frame = self.sampler.frame(narrow, chain)
    zero = jnp.zeros((), jnp.int32)
    return BlockChain(*frame, chain.calls, chain, canvas, begin, zero)

  def step(
    self, keys: Key, model: Model, carry: BlockChain, s: Array, t: Array
  ) -> BlockChain:
    key_start, key_step = split(keys)
    grid = self.sampler.times(model, carry.canvas)
    steps = len(grid) - 1
    number, place = carry.index // steps, carry.index % steps
    begin = carry.begin + number * self.size
    narrow = self._model(model, carry.canvas, begin)
    here = self._canvas(carry.x, carry.canvas, begin)

    def restart(chain: Any) -> Any:
      fresh = self.sampler.init(key_start, narrow, here)
      return fresh._replace(calls=chain.calls)

    is_new = (place == 0) & (number > 0)
    chain = jax.lax.cond(is_new, restart, lambda chain: chain, carry.chain)
    s, t = (
      jnp.where(here.is_given, 0.0, time)
      for time in (grid[place + 1], grid[place])
    )
    chain = jax.lax.cond(
      self.sampler.is_done(narrow, chain).all(),
      lambda chain: chain,
      lambda chain: self.sampler.step(key_step, narrow, chain, s, t),
      chain,
    )
    frame = self.sampler.frame(narrow, chain)
    return carry._replace(
      x=jnp.where(here.is_given, carry.x, frame.ids),
      log_prob=jnp.where(here.is_given, carry.log_prob, frame.log_prob),
      calls=chain.calls,
      chain=chain,
      index=carry.index + 1,
    )

  def is_done(self, model: Model, carry: BlockChain) -> Array:
    steps = len(self.sampler.times(model, carry.canvas)) - 1
    begin = carry.begin + carry.index // steps * self.size
    return begin >= carry.x.shape[1]

  def _canvas(self, x: Array, canvas: Canvas, begin: Array) -> Canvas:
    """The canvas of a block: all tokens before it are given."""
    is_before = jnp.arange(x.shape[1]) < begin[:, None]
    return canvas._replace(ids=x, is_given=canvas.is_given | is_before)

  def _model(self, model: Model, canvas: Canvas, begin: Array) -> Model:
    """The model without tokens after the block."""
    is_there = jnp.arange(canvas.ids.shape[1]) < begin[:, None] + self.size
    return model.with_view(segments=is_there.astype(jnp.int32))
