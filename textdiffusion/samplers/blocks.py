"""Block decoding of masked networks: blocks of tokens, from left to right.

A decoder has five parts: how tokens are proposed, how open positions are shown
to the network, which proposals are committed, which committed tokens are opened
again, and what is cached. Each row is at a block of its own.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.types import Array, Key, PyTree, UserError
from textdiffusion.core.validation import check_fields
from textdiffusion.model import Model
from textdiffusion.nn.network import BlockCausal, write_at
from textdiffusion.samplers.autoregressive import Prompts
from textdiffusion.samplers.base import Canvas, Frame, Sampler, take_at
from textdiffusion.samplers.block_parts import (
  Count,
  DualCache,
  ExactCache,
  Keep,
  Masks,
  NoCache,
  Propose,
  Reopen,
  SoftMasks,
  Threshold,
)
from textdiffusion.samplers.grid import check_masking, clean_logits, start
from textdiffusion.samplers.ordered import time_of_masks
from textdiffusion.schedules import grids


class BlockState(NamedTuple):
  """A chain within a block of each row.

  Attributes:
    x, log_prob, calls: as in `Chain`.
    block: number of the current block.
    age: calls in that block so far.
    shown: state of `represent`.
    cache: state of `cache`.
    is_free: False for given tokens.
  """

  x: Int[Array, 'B L']
  log_prob: Float[Array, 'B L']
  calls: Int[Array, '']
  block: Int[Array, ' B']
  age: Int[Array, ' B']
  shown: PyTree
  cache: PyTree
  is_free: Bool[Array, 'B L']


@dataclasses.dataclass(frozen=True)
class Blocks(Sampler):
  """Decodes blocks of `size` tokens, one after another.

  With one token a call, drawn without a filter, samples follow the law of an
  exact denoiser.

  Attributes:
    size: tokens of a block; it divides the row.
    propose: tokens and their scores.
    represent: how open positions are shown to the network.
    commit: which proposals are taken.
    revise: which committed tokens of the block are opened again.
    cache: what is not computed again at every call.
    limit: calls in a block until all open positions are committed; 0 is `size`.
    stop_at_eos: whether a row ends with the end of the document, once all
      tokens before it are decided.
    eos_id: the end of a document; the method sets it.
  """

  size: int = 32
  propose: Propose = Propose()
  represent: Masks | SoftMasks = Masks()
  commit: Count | Threshold = Count()
  revise: Keep | Reopen = Keep()
  cache: NoCache | ExactCache | DualCache = NoCache()
  limit: int = 0
  stop_at_eos: bool = False
  eos_id: int | None = None

  def __post_init__(self) -> None:
    check_fields(self, size='[1, inf)', limit='[0, inf)')

  def check(self, model: Model) -> None:
    check_masking(self, model)
    structure = model.view.structure
    fits = isinstance(structure, BlockCausal) and structure.size == self.size
    if isinstance(self.cache, ExactCache) and not fits:
      raise UserError(
        f'Blocks(size={self.size}, cache=ExactCache()): the network attends by '
        f'{structure}, not BlockCausal(size={self.size}); use NoCache() or '
        'DualCache()'
      )
    if self.stop_at_eos and self.eos_id is None:
      raise UserError(
        'Blocks(stop_at_eos=True): the tokenizer has no end of document; use '
        'stop_at_eos=False'
      )

  def times(self, model: Model, canvas: Canvas) -> Float[Array, ' N']:
    length = canvas.ids.shape[1]
    if length % self.size:
      raise UserError(
        f'Blocks(size={self.size}): must divide the row of {length} tokens'
      )
    calls = (self.limit or self.size) + self.cache.closing_calls
    return grids.uniform(length // self.size * calls)

  def init(self, keys: Key, model: Model, canvas: Canvas) -> BlockState:
    chain, prompts = start(keys, model, canvas), Prompts.from_canvas(canvas)
    block = prompts.lengths // self.size
    longest = prompts.longest // self.size * self.size
    cache, calls = self.cache.start(model, chain.x, block * self.size, longest)
    return BlockState(
      chain.x,
      chain.log_prob,
      chain.calls + calls,
      block=block,
      age=jnp.zeros_like(block),
      shown=self.represent.start(chain.x),
      cache=cache,
      is_free=~canvas.is_given,
    )

  def step(
    self,
    keys: Key,
    model: Model,
    carry: BlockState,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> BlockState:
    p, last = model.process, t.shape[1] // self.size - 1
    block = jnp.minimum(carry.block, last)
    places = block[:, None] * self.size + jnp.arange(self.size)[None]
    x, log_prob, is_free = take_at(
      (carry.x, carry.log_prob, carry.is_free), places
    )
    is_open = p.is_mask(x)
    times = jnp.where(t > 0, time_of_masks(p, is_open, is_free), 0.0)
    inputs = self.represent.inputs(p, carry.x, carry.shown)
    hidden, cache, calls = self.cache.call(model, carry, inputs, places, times)
    times = take_at(times, places)
    logits = clean_logits(p, model.read(hidden, x, times), x, times)
    proposal = self.propose(keys, logits)
    is_last_call = (carry.age + 1 >= (self.limit or self.size))[:, None]
    is_taken = self.commit(proposal.score, is_open) | is_last_call
    is_taken &= is_open
    is_reopened = ~is_open & is_free & ~is_last_call & self.revise(logits, x)
    x = jnp.where(is_taken, proposal.ids, jnp.where(is_reopened, p.mask_id, x))
    moves = ~p.is_mask(x).any(-1)
    if self.cache.closing_calls:  # the call after the last commit
      moves &= ~is_open.any(-1)
    log_prob = jnp.where(is_taken, proposal.log_prob, log_prob)
    return BlockState(
      write_at(carry.x, x, places),
      write_at(carry.log_prob, log_prob, places),
      carry.calls + calls,
      carry.block + moves,
      jnp.where(moves, 0, carry.age + 1),
      self.represent.update(carry.shown, places, logits),
      cache,
      carry.is_free,
    )

  def is_done(self, model: Model, carry: BlockState) -> Bool[Array, ' B']:
    return ~model.process.is_mask(self.frame(model, carry).ids).any(-1)

  def frame(self, model: Model, carry: BlockState) -> Frame:
    if not self.stop_at_eos or self.eos_id is None:
      return Frame(carry.x, carry.log_prob)
    is_masked = model.process.is_mask(carry.x)
    is_decided = jnp.cumsum(is_masked, -1) == 0
    is_end = carry.is_free & (carry.x == self.eos_id) & is_decided
    is_ended = jnp.cumsum(is_end, -1) > 0
    ids = jnp.where(is_ended & carry.is_free, self.eos_id, carry.x)
    return Frame(ids.astype(carry.x.dtype), carry.log_prob)
