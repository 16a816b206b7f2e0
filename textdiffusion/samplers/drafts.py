"""Rows of a static capacity, into which tokens are inserted.

A row is text packed to the left and padding. An edit moves what is to its right
by cumulative sums and one scatter.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Shaped

from textdiffusion.core.numerics import fine_uniform
from textdiffusion.core.types import Array, Key
from textdiffusion.processes.edit import has_gap, lengths


class Draft(NamedTuple):
  """A text to which tokens are added.

  Attributes:
    x: ids, text packed to the left and padding after it.
    log_prob: log-probability of each token when it was drawn.
    calls: calls of the network so far.
    is_given: tokens that stay as they are.
    is_joined: whether nothing may come between a token and the one before it,
      or before the first.
    is_ended: whether nothing may come after the last token.
    refused: insertions that found no room so far.
  """

  x: Int[Array, 'B L']
  log_prob: Float[Array, 'B L']
  calls: Int[Array, '']
  is_given: Bool[Array, 'B L']
  is_joined: Bool[Array, 'B L']
  is_ended: Bool[Array, ' B']
  refused: Int[Array, ' B']


def start_draft(
  ids: Int[Array, 'B L'], is_given: Bool[Array, 'B L'], pad_id: int
) -> Draft:
  """A canvas -> its given tokens, packed.

  A run of free places, however long, is a gap that may be filled; given
  neighbours stay neighbours.
  """
  order = jnp.argsort(~is_given, axis=-1, stable=True)
  packed = lambda x: jnp.take_along_axis(x, order, axis=-1)
  before = jnp.pad(is_given, ((0, 0), (1, 0)), constant_values=True)[:, :-1]
  given = packed(is_given)
  rows = ids.shape[0]
  return Draft(
    jnp.where(given, packed(ids), pad_id).astype(jnp.int32),
    jnp.zeros(ids.shape, jnp.float32),
    jnp.zeros((), jnp.int32),
    given,
    given & packed(before),
    is_given[:, -1],
    jnp.zeros(rows, jnp.int32),
  )


def open_gaps(draft: Draft, pad_id: int) -> Bool[Array, 'B L']:
  """Returns True where a token may be inserted before the position."""
  is_end = jnp.arange(draft.x.shape[-1])[None] == lengths(draft.x, pad_id)
  is_shut = draft.is_joined | (is_end & draft.is_ended[:, None])
  return has_gap(draft.x, pad_id) & ~is_shut


def count(
  key: Key, log_mean: Float[Array, '...'], most: int
) -> Int[Array, '...']:
  """Poisson counts, right down to means of 1e-10, `most` at most.

  Arrivals of a unit Poisson process before the mean; `most` keeps the loop and
  the memory finite for any output of a network.
  """
  mean = jnp.exp(log_mean)

  def arrive(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    index, clock, counts = state
    u = fine_uniform(jax.random.fold_in(key, index), mean.shape)
    clock -= jnp.log1p(-u)
    return index + 1, clock, counts + (clock < mean)

  none = jnp.zeros(mean.shape, jnp.int32)
  start = jnp.zeros((), jnp.int32), jnp.zeros_like(mean), none
  return jax.lax.while_loop(
    lambda state: (state[0] < most) & (state[1] < mean).any(), arrive, start
  )[2]


def fit(
  key: Key, counts: Int[Array, ' L'], room: Int[Array, ''] | int
) -> Int[Array, ' L']:
  """Returns counts of at most `room` in all, each insertion kept with
  the same probability (systematic resampling)."""
  total = counts.sum()
  share = jnp.minimum(1.0, room / jnp.maximum(total, 1))
  end = jnp.cumsum(counts) * share + jax.random.uniform(key)
  # If all fit, share is 1 and the floors count exactly.
  kept = jnp.diff(jnp.minimum(jnp.floor(end), room), prepend=0.0)
  kept = jnp.minimum(kept.astype(counts.dtype), counts)
  return jnp.where(total <= room, counts, kept)


class Splice(NamedTuple):
  """New places of the tokens of a row.

  Attributes:
    moved: of old tokens, L for those that are deleted.
    first: of the first token inserted before each position.
    size: number of tokens afterwards.
  """

  moved: Int[Array, ' L']
  first: Int[Array, ' L']
  size: Int[Array, '']


def splice(is_kept: Bool[Array, ' L'], counts: Int[Array, ' L']) -> Splice:
  """Computes the places of a row's tokens after deletions and insertions.

  Args:
    is_kept: False for tokens that are deleted.
    counts: number of tokens that are inserted before each position.
  """
  kept = jnp.cumsum(is_kept) - is_kept
  added = jnp.cumsum(counts) - counts
  moved = jnp.where(is_kept, kept + added + counts, is_kept.shape[-1])
  return Splice(moved, kept + added, is_kept.sum() + counts.sum())


def put(
  places: Int[Array, ' L'],
  values: Shaped[Array, ' L'],
  into: Shaped[Array, ' L'],
) -> Shaped[Array, ' L']:
  """`into` with values at places; places from L on are dropped."""
  return into.at[places].set(values.astype(into.dtype), mode='drop')


def spliced(
  draft: Draft,
  is_kept: Bool[Array, 'B L'],
  counts: Int[Array, 'B L'],
  tokens: Int[Array, 'B L'],
  log_prob: Float[Array, 'B L'],
  blank: int,
  pad_id: int,
) -> Draft:
  """Returns the draft after insertions and deletions.

  Args:
    draft: before.
    is_kept: False for tokens that are deleted.
    counts: tokens inserted before each position.
    tokens, log_prob: of the first of them.
    blank: id of the further ones.
    pad_id: id of the padding.
  """
  capacity = draft.x.shape[-1]
  where = jax.vmap(splice)(is_kept, counts)
  move = lambda values, into: jax.vmap(put)(where.moved, values, into)
  first = jnp.where(counts > 0, where.first, capacity)
  is_text = jnp.arange(capacity)[None] < where.size[:, None]
  fresh = jnp.where(is_text, blank, pad_id).astype(draft.x.dtype)
  fresh = jax.vmap(put)(first, tokens, fresh)
  fresh_log_prob = jnp.zeros_like(draft.log_prob)
  fresh_log_prob = jax.vmap(put)(first, log_prob, fresh_log_prob)
  return draft._replace(
    x=move(draft.x, fresh),
    log_prob=move(draft.log_prob, fresh_log_prob),
    is_given=move(draft.is_given, jnp.zeros_like(draft.is_given)),
    is_joined=move(draft.is_joined, jnp.zeros_like(draft.is_joined)),
  )


def fit_rows(
  keys: Key, counts: Int[Array, 'B L'], is_kept: Bool[Array, 'B L']
) -> tuple[Int[Array, 'B L'], Int[Array, ' B']]:
  """Returns the counts that find room, and for each row how many do not."""
  room = counts.shape[-1] - is_kept.sum(-1)
  kept = jax.vmap(fit)(keys, counts, room)
  return kept, (counts.sum(-1) - kept.sum(-1)).astype(jnp.int32)
