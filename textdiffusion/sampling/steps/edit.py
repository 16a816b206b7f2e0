"""Steps that insert, delete and replace: rows of a static capacity.

A row is text packed to the left and padding; an edit moves what is to its right
by cumulative sums and one scatter. In a step of a grid every pending edit is
made with the chance that its clock strikes, all at once (tau-leaping).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import fine_uniform, flip, log1m_exp
from textdiffusion.core.types import (
  Array,
  DenoiseFn,
  Edits,
  Growth,
  Key,
  Step,
  Time,
)
from textdiffusion.processes.edit import (
  EditPath,
  MaskedInsertion,
  has_gap,
  lengths,
  log_chance,
)
from textdiffusion.sampling.steps.ancestral import draw_rows

Filter = Callable[[Array], Array]  # logits [..., K] -> logits [..., K]


class Draft(NamedTuple):
  """A text in the making.

  x: [B, L] ids, padding after the text; its length is told by nothing else.
  log_prob: [B, L] of each token when it was drawn. calls: [] of the network.
  is_given: [B, L] tokens that stay as they are. is_joined: [B, L] whether
  nothing may come between a token and the one before it, or before the first.
  is_ended: [B] whether nothing may come after the last token. refused: [B]
  insertions that found no room so far.
  """

  x: Array
  log_prob: Array
  calls: Array
  is_given: Array
  is_joined: Array
  is_ended: Array
  refused: Array


def start_draft(ids: Array, is_given: Array, pad_id: int) -> Draft:
  """A canvas [B, L] -> its given tokens, packed. A run of free places, however
  long, is a gap that may be filled; given neighbours stay neighbours."""
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


def open_gaps(draft: Draft, pad_id: int) -> Array:
  """[B, L] before which positions a token may be inserted."""
  is_end = jnp.arange(draft.x.shape[-1]) == lengths(draft.x, pad_id)
  is_shut = draft.is_joined | (is_end & draft.is_ended[:, None])
  return has_gap(draft.x, pad_id) & ~is_shut


def count(key: Key, log_mean: Array, most: int) -> Array:
  """Poisson counts, right down to means of 1e-10: [...] int32, `most` at most.

  Arrivals of a unit Poisson process before the mean; `most` keeps the loop and
  the memory finite whatever a network says.
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


def fit(key: Key, counts: Array, room: Array) -> Array:
  """[L] counts -> [L] counts of at most `room` in all, each insertion kept with
  the same probability (systematic resampling)."""
  total = counts.sum()
  share = jnp.minimum(1.0, room / jnp.maximum(total, 1))
  end = jnp.cumsum(counts) * share + jax.random.uniform(key)
  # If all fit, share is 1 and the floors count exactly.
  kept = jnp.diff(jnp.minimum(jnp.floor(end), room), prepend=0.0)
  kept = jnp.minimum(kept.astype(counts.dtype), counts)
  return jnp.where(total <= room, counts, kept)


class Splice(NamedTuple):
  """Where things go. moved: [L] new places of old tokens, L where there is none
  any more. first: [L] of the first token inserted before each position. size:
  [] tokens afterwards."""

  moved: Array
  first: Array
  size: Array


def splice(is_kept: Array, counts: Array) -> Splice:
  """Of a row [L]: kept tokens, and how many new ones before each position."""
  kept = jnp.cumsum(is_kept) - is_kept
  added = jnp.cumsum(counts) - counts
  moved = jnp.where(is_kept, kept + added + counts, is_kept.shape[-1])
  return Splice(moved, kept + added, is_kept.sum() + counts.sum())


def put(places: Array, values: Array, into: Array) -> Array:
  """`into` [L] with values [L] at places [L]; places from L on are dropped."""
  return into.at[places].set(values.astype(into.dtype), mode='drop')


def _edited(
  draft: Draft,
  is_kept: Array,
  counts: Array,
  tokens: Array,
  log_prob: Array,
  blank: int,
  pad_id: int,
) -> Draft:
  """The draft after insertions and deletions.

  counts: [B, L] tokens inserted before each position. tokens, log_prob: [B, L]
  of the first of them. blank: what further ones are.
  """
  capacity = draft.x.shape[-1]
  where = jax.vmap(splice)(is_kept, counts)
  move = lambda values, into: jax.vmap(put)(where.moved, values, into)
  first = jnp.where(counts > 0, where.first, capacity)
  is_text = jnp.arange(capacity) < where.size[:, None]
  fresh = jnp.where(is_text, blank, pad_id).astype(draft.x.dtype)
  fresh = jax.vmap(put)(first, tokens, fresh)
  told = jax.vmap(put)(first, log_prob, jnp.zeros_like(draft.log_prob))
  return draft._replace(
    x=move(draft.x, fresh),
    log_prob=move(draft.log_prob, told),
    is_given=move(draft.is_given, jnp.zeros_like(draft.is_given)),
    is_joined=move(draft.is_joined, jnp.zeros_like(draft.is_joined)),
  )


def _fitted(key: Key, counts: Array, is_kept: Array) -> tuple[Array, Array]:
  """[B, L] counts -> those that find room, and [B] how many do not."""
  keys = row_keys(key, jnp.arange(len(counts)))
  room = counts.shape[-1] - is_kept.sum(-1)
  kept = jax.vmap(fit)(keys, counts, room)
  return kept, (counts.sum(-1) - kept.sum(-1)).astype(jnp.int32)


def _row_wise(draw: Callable, key: Key, *args: Array) -> Array:
  """A draw of whole rows, one key a row."""
  return jax.vmap(draw)(row_keys(key, jnp.arange(len(args[0]))), *args)


def grow(
  p: MaskedInsertion, denoise: DenoiseFn, reshape: Filter
) -> Step[Draft]:
  """FlexMDM's step: masks that were there are revealed, then new ones come.

  A gap gets Poisson(expected missing * chance) masks, the chance of `insert`.
  They are revealed by later steps, so the grid ends with an interval [0, 0]:
  the step that reaches 0 inserts all that is missing, the last one reveals.

  Args:
    reshape: temperature and cuts of token logits; specials are out of them.
  """

  def step(key: Key, carry: Draft, s: Time, t: Time) -> Draft:
    key_who, key_what, key_count, key_fit = jax.random.split(key, 4)
    head: Any = denoise(carry.x, t)
    if not isinstance(head, Growth):
      raise TypeError(
        f'masked insertion takes a Growth head, not {type(head).__name__}'
      )
    dist = Categorical(reshape(_no_specials(head.logits, p.special_ids)))
    token = draw_rows(key_what, dist)
    chance = jnp.broadcast_to(log_chance(p.unmask, s, t), carry.x.shape)
    is_revealed = (carry.x == p.mask_id) & _row_wise(flip, key_who, chance)
    log_prob = dist.log_prob(token).astype(carry.log_prob.dtype)
    carry = carry._replace(
      x=jnp.where(is_revealed, token, carry.x).astype(carry.x.dtype),
      log_prob=jnp.where(is_revealed, log_prob, carry.log_prob),
      calls=carry.calls + 1,
    )
    may_insert = open_gaps(carry, p.pad_id) & (jnp.asarray(t) > 0)
    mean = head.log_count + log_chance(p.insert, s, t)
    counts = _row_wise(
      lambda key, mean: count(key, mean, mean.shape[-1]),
      key_count,
      jnp.where(may_insert, mean, -jnp.inf),
    )
    is_kept = carry.x != p.pad_id
    counts, refused = _fitted(key_fit, counts, is_kept)
    nothing = jnp.zeros_like(carry.log_prob)
    masks = jnp.full_like(carry.x, p.mask_id)
    grown = _edited(carry, is_kept, counts, masks, nothing, p.mask_id, p.pad_id)
    return grown._replace(refused=carry.refused + refused)

  return step


def edit(p: EditPath, denoise: DenoiseFn, reshape: Filter) -> Step[Draft]:
  """Edit Flows' step: each gap gets at most one token, each token is kept,
  deleted or replaced; given tokens are kept.

  Insertions come with probability 1 - exp(-rate * chance); deletion and
  substitution with rate * chance, scaled to 1 where an inexact model exceeds
  it.

  Args:
    reshape: temperature and cuts of token logits; specials are out of them.
  """

  def step(key: Key, carry: Draft, s: Time, t: Time) -> Draft:
    keys = jax.random.split(key, 5)
    head: Any = denoise(carry.x, t)
    if not isinstance(head, Edits):
      raise TypeError(
        f'an edit path takes an Edits head, not {type(head).__name__}'
      )
    log_step = log_chance(p.schedule, s, t)
    say = lambda logits: Categorical(
      reshape(_no_specials(logits, p.special_ids))
    )
    is_there = carry.x != p.pad_id
    may_change = is_there & ~carry.is_given
    rate = lambda log_rate: jnp.where(
      may_change, jnp.exp(log_rate + log_step), 0.0
    )
    delete, replace = rate(head.log_delete), rate(head.log_substitute)
    scale = 1 / jnp.maximum(delete + replace, 1.0)
    u = _row_wise(lambda k, x: fine_uniform(k, x.shape), keys[0], delete)
    is_deleted = u < delete * scale
    is_replaced = ~is_deleted & (u < (delete + replace) * scale)
    dist = say(head.logits_substitute)
    token = draw_rows(keys[1], dist)
    told = dist.log_prob(token).astype(carry.log_prob.dtype)
    mean = jnp.exp(head.log_insert + log_step)
    log_any = jnp.where(open_gaps(carry, p.pad_id), log1m_exp(-mean), -jnp.inf)
    counts = _row_wise(flip, keys[2], log_any).astype(jnp.int32)
    counts, refused = _fitted(keys[3], counts, is_there & ~is_deleted)
    dist = say(head.logits_insert)
    fresh = draw_rows(keys[4], dist)
    carry = carry._replace(
      x=jnp.where(is_replaced, token, carry.x).astype(carry.x.dtype),
      log_prob=jnp.where(is_replaced, told, carry.log_prob),
      calls=carry.calls + 1,
      refused=carry.refused + refused,
    )
    told = dist.log_prob(fresh)
    is_kept = is_there & ~is_deleted
    return _edited(carry, is_kept, counts, fresh, told, p.pad_id, p.pad_id)

  return step


def _no_specials(logits: Array, special_ids: tuple[int, ...]) -> Array:
  """[..., K] logits without mass on what is no token of a text."""
  is_special = jnp.isin(jnp.arange(logits.shape[-1]), jnp.asarray(special_ids))
  return jnp.where(is_special, -jnp.inf, logits)
