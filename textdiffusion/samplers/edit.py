"""Samplers of texts of any length up to the row's: FlexMDM and Edit Flows.

In a step every pending edit is made with the chance that its clock strikes, all
at once (tau-leaping). Tokens move, so that times by position would be wrong: a
row's largest time holds for all of its tokens.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import (
  fine_uniform,
  flip,
  log1m_exp,
  match_ranks,
)
from textdiffusion.core.types import (
  Array,
  Edits,
  Growth,
  Head,
  Key,
  Time,
  UserError,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.model import Model
from textdiffusion.processes.edit import EditPath, MaskedInsertion, log_chance
from textdiffusion.samplers.base import (
  Canvas,
  Sampler,
  draw_rows,
  refuse_given,
  split,
)
from textdiffusion.samplers.drafts import (
  Draft,
  count,
  fit_rows,
  open_gaps,
  spliced,
  start_draft,
)
from textdiffusion.samplers.filters import Filter
from textdiffusion.samplers.grid import grid_times


@dataclasses.dataclass(frozen=True)
class InsertAndUnmask(Sampler):
  """FlexMDM (Kim et al. 2025): inserts masks where the canvas is free.

  A free run of the canvas is a gap for any number of tokens, none included, as
  far as the row has room. With nothing but gaps between the given tokens
  samples follow the law of texts given such a subsequence. Where given
  neighbours are kept together the law is approximate, as the network's counts
  are those of a text that might have more between them.

  Attributes:
    steps: number of steps, the last of which only reveals.
    grid: where the times of the others lie.
    filter: of the tokens.
  """

  steps: int = 64
  grid: Literal['cosine', 'uniform'] = 'cosine'
  filter: Filter = Filter()

  def __post_init__(self) -> None:
    # Inserting and revealing needs two.
    check_fields(self, steps='[2, 1048576]')

  def check(self, model: Model) -> None:
    _check_process(self, model, MaskedInsertion)

  def times(self, model: Model, canvas: Canvas) -> Float[Array, ' N']:
    grid = grid_times(self.steps - 1, self.grid)
    # Masks that come in the step to 0 are revealed by one from 0 to 0.
    return jnp.concatenate([grid, jnp.zeros_like(grid[:1])])

  def init(self, keys: Key, model: Model, canvas: Canvas) -> Draft:
    return _given_text(model, canvas)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Draft,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Draft:
    s, t = _row_times(s, t)
    head = model(carry.x, t).head
    return insert_and_unmask(
      model.process, head, self.filter, keys, carry, s, t
    )


@dataclasses.dataclass(frozen=True)
class EditSteps(Sampler):
  """Edit Flows (Havasi et al. 2025) from its source.

  A canvas is filled in as by `InsertAndUnmask`. A source of tokens stands in
  place of given text, so the two exclude each other.

  Attributes:
    steps: number of steps.
    grid: where the times lie.
    filter: of the tokens.
  """

  steps: int = 64
  grid: Literal['cosine', 'uniform'] = 'cosine'
  filter: Filter = Filter()

  def __post_init__(self) -> None:
    check_fields(self, steps='[1, 1048576]')

  def check(self, model: Model) -> None:
    _check_process(self, model, EditPath)

  def times(self, model: Model, canvas: Canvas) -> Float[Array, ' N']:
    return grid_times(self.steps, self.grid)

  def init(self, keys: Key, model: Model, canvas: Canvas) -> Draft:
    p, draft = model.process, _given_text(model, canvas)
    if not p.source_length:
      return draft
    given = canvas.is_given
    if isinstance(given, Tracer) or np.asarray(given).any():
      raise UserError(
        'prompts and infilling need an empty source: train with '
        '--set=method.source_length=0'
      )
    x = jax.vmap(lambda key: p.source(key, given.shape[1]))(keys)
    return draft._replace(x=x.astype(draft.x.dtype))

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Draft,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Draft:
    s, t = _row_times(s, t)
    head = model(carry.x, t).head
    return edit(model.process, head, self.filter, keys, carry, s, t)


def insert_and_unmask(
  p: MaskedInsertion,
  head: Head,
  reshape: Callable[[Array], Array],
  keys: Key,
  carry: Draft,
  s: Time,
  t: Time,
) -> Draft:
  """FlexMDM's step: masks that were there are revealed, then new ones come.

  A gap gets Poisson(expected missing * chance) masks, the chance of `insert`.
  Later steps reveal them.

  Args:
    p: the process.
    head: a `Growth` at (carry.x, t).
    reshape: logits [..., K] -> logits [..., K]; specials are left out.
    keys: [B].
    carry: the draft at t.
    s, t: times that broadcast against [B, L].
  """
  if not isinstance(head, Growth):
    raise TypeError(
      f'masked insertion takes a Growth head, not {type(head).__name__}'
    )
  key_where, key_what, key_count, key_fit = split(keys, 4)
  dist = Categorical(reshape(_no_specials(head.logits, p.special_ids)))
  token = draw_rows(key_what, dist)
  chance = jnp.broadcast_to(log_chance(p.unmask, s, t), carry.x.shape)
  is_revealed = (carry.x == p.mask_id) & jax.vmap(flip)(key_where, chance)
  log_prob = dist.log_prob(token).astype(carry.log_prob.dtype)
  carry = carry._replace(
    x=jnp.where(is_revealed, token, carry.x).astype(carry.x.dtype),
    log_prob=jnp.where(is_revealed, log_prob, carry.log_prob),
    calls=carry.calls + 1,
  )
  may_insert = open_gaps(carry, p.pad_id) & (jnp.asarray(t) > 0)
  mean = head.log_count + log_chance(p.insert, s, t)
  counts = jax.vmap(lambda key, mean: count(key, mean, mean.shape[-1]))(
    key_count, jnp.where(may_insert, mean, -jnp.inf)
  )
  is_kept = carry.x != p.pad_id
  counts, refused = fit_rows(key_fit, counts, is_kept)
  nothing = jnp.zeros_like(carry.log_prob)
  masks = jnp.full_like(carry.x, p.mask_id)
  grown = spliced(carry, is_kept, counts, masks, nothing, p.mask_id, p.pad_id)
  return grown._replace(refused=carry.refused + refused)


def edit(
  p: EditPath,
  head: Head,
  reshape: Callable[[Array], Array],
  keys: Key,
  carry: Draft,
  s: Time,
  t: Time,
) -> Draft:
  """Edit Flows' step: each gap gets at most one token, each token is kept,
  deleted or replaced; given tokens are kept.

  Insertions come with probability 1 - exp(-rate * chance); deletion and
  substitution with rate * chance, scaled to 1 where an inexact model exceeds
  it.

  Args:
    p: the process.
    head: an `Edits` at (carry.x, t).
    reshape, keys, carry, s, t: as in `insert_and_unmask`.
  """
  if not isinstance(head, Edits):
    raise TypeError(
      f'an edit path takes an Edits head, not {type(head).__name__}'
    )
  key_edit, key_token, key_gap, key_fit, key_fresh = split(keys, 5)
  log_step = log_chance(p.schedule, s, t)
  predicted = lambda logits: Categorical(
    reshape(_no_specials(logits, p.special_ids))
  )
  is_there = carry.x != p.pad_id
  may_change = is_there & ~carry.is_given
  rate = lambda log_rate: jnp.where(
    may_change, jnp.exp(log_rate + log_step), 0.0
  )
  delete, replace = rate(head.log_delete), rate(head.log_substitute)
  scale = 1 / jnp.maximum(delete + replace, 1.0)
  u = jax.vmap(lambda key: fine_uniform(key, carry.x.shape[1:]))(key_edit)
  is_deleted = u < delete * scale
  is_replaced = ~is_deleted & (u < (delete + replace) * scale)
  dist = predicted(head.logits_substitute)
  token = draw_rows(key_token, dist)
  log_prob = dist.log_prob(token).astype(carry.log_prob.dtype)
  mean = jnp.exp(head.log_insert + log_step)
  log_any = jnp.where(open_gaps(carry, p.pad_id), log1m_exp(-mean), -jnp.inf)
  counts = jax.vmap(flip)(key_gap, log_any).astype(jnp.int32)
  is_kept = is_there & ~is_deleted
  counts, refused = fit_rows(key_fit, counts, is_kept)
  dist = predicted(head.logits_insert)
  fresh = draw_rows(key_fresh, dist)
  carry = carry._replace(
    x=jnp.where(is_replaced, token, carry.x).astype(carry.x.dtype),
    log_prob=jnp.where(is_replaced, log_prob, carry.log_prob),
    calls=carry.calls + 1,
    refused=carry.refused + refused,
  )
  log_prob = dist.log_prob(fresh)
  return spliced(carry, is_kept, counts, fresh, log_prob, p.pad_id, p.pad_id)


def _check_process(sampler: Sampler, model: Model, process: type) -> None:
  """Raises UserError for the process of another method."""
  if not isinstance(model.process, process):
    raise UserError(
      f'{type(sampler).__name__}() needs the process {process.__name__}, not '
      f"{type(model.process).__name__}: use the method's own sampler"
    )


def _given_text(model: Model, canvas: Canvas) -> Draft:
  """The given tokens of a canvas, packed."""
  p = model.process
  refuse_given(canvas, p.special_ids, 'the mask or padding')
  return start_draft(canvas.ids, canvas.is_given, p.pad_id)


def _row_times(
  s: Float[Array, 'B L'], t: Float[Array, 'B L']
) -> tuple[Float[Array, 'B 1'], Float[Array, 'B 1']]:
  """Returns the largest times of each row."""
  return s.max(-1, keepdims=True), t.max(-1, keepdims=True)


def _no_specials(
  logits: Float[Array, '... K'], special_ids: tuple[int, ...]
) -> Float[Array, '... K']:
  """Returns logits without mass on ids that are no token of a text."""
  is_special = jnp.isin(jnp.arange(logits.shape[-1]), jnp.asarray(special_ids))
  is_special, logits = match_ranks(is_special, logits)
  return jnp.where(is_special, -jnp.inf, logits)
