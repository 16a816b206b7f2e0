"""Bounds on -log p of texts of any length, by insertions and other edits.

A path from the source to the text is a list of timed edits, each with its place
in the text of the moment. Given the text, every place waits on its own clock;
the model is a Markov chain with rate hazard * expected number of pending edits.
As the whole path tells which token of the text each edit made, the ratio of the
two path densities is a product over the edits, and its mean a bound:

  E_t sum over kinds of hazard * [rate - sum over pending edits of log rate
                                  - number of pending edits].

Written with the generalised KL of the papers, y_hat - y + y log(y / y_hat) for
y tokens missing in a gap, it is larger by hazard * y log y: the papers' loss
also pays for the order in which the tokens of a text come. That surplus, 1.2
nats a token, depends on the length alone (`order_nats`) and is taken off again;
what is left is exact: at the exact model it is -log p, as tests enumerate.

Every [L] term stands where its rate does, at a position of x_t, but the
cross-entropies, the surplus and deletions and substitutions, which stand at the
token of the text. So the whole row counts, its padding too.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import poisson_kl
from textdiffusion.core.types import (
  Array,
  Batch,
  Edits,
  Growth,
  Key,
  Time,
)
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.processes.edit import (
  EditPath,
  MaskedInsertion,
  count_at,
  has_gap,
  hazard,
  pack,
)
from textdiffusion.schedules.times import continuous

Terms = dict[str, Array]


def order_nats(capacity: int) -> np.ndarray:
  """[capacity + 1]: E sum of log(tokens missing in the gap) over insertions.

  For n tokens inserted in uniformly random order,
  F(n) = log n + 2 / n (F(0) + ... + F(n - 1)): the entropy of the shape of a
  random binary search tree. The clocks are exchangeable, so it holds for any
  schedule.
  """
  table, total = np.zeros(capacity + 1), 0.0
  for n in range(1, capacity + 1):
    table[n] = np.log(n) + 2 / n * total
    total += table[n]
  return table


def cross_entropy(
  logits: Array, tokens: Array, place: Array, special_ids: tuple[int, ...]
) -> Array:
  """[L, K], tokens [L] read at places [L] -> [L] nats; no mass on specials."""
  states = jnp.arange(logits.shape[-1])
  is_special = jnp.isin(states, jnp.asarray(special_ids))
  logits = jnp.where(is_special, -jnp.inf, logits)
  # A special is no token of the text, and its nats are never counted.
  safe = next(i for i in range(len(special_ids) + 1) if i not in special_ids)
  tokens = jnp.where(is_special[tokens], safe, tokens)
  place = jnp.minimum(place, logits.shape[-2] - 1)
  total = jax.nn.logsumexp(logits, axis=-1)
  at = jnp.vectorize(
    lambda logits, total, i, v: total[i] - logits[i, v],
    signature='(l,k),(l),(l),(l)->(l)',
  )
  return at(logits, total, place, tokens)


def _order(is_inserted: Array) -> Array:
  """[L] bool -> [L]: minus `order_nats`, in equal shares of the insertions."""
  table = jnp.asarray(order_nats(is_inserted.shape[-1]))
  count = is_inserted.sum(-1, keepdims=True)
  share = table[count] / jnp.maximum(count, 1)
  return -jnp.where(is_inserted, share, 0.0)


def _pending(log_rate: Array, is_pending: Array) -> Array:
  """Poisson KL of one edit, pending or not, and its rate."""
  return poisson_kl(jnp.where(is_pending, 0.0, -jnp.inf), log_rate)


def growth_terms(
  p: MaskedInsertion, x0: Array, head: Any, z: Array, t: Time
) -> Terms:
  """FlexMDM's bound at t, {unmask, insert, order}, each [L] nats per unit t.

  x0, z: clean and aligned, [L]. head: of x_t, which is z packed.
  """
  if not isinstance(head, Growth):
    raise TypeError(
      f'masked insertion takes a Growth head, not {type(head).__name__}'
    )
  x, place = pack(z, p.pad_id)
  is_clean = x0 != p.pad_id
  is_masked = is_clean & (z == p.mask_id)
  nats = cross_entropy(head.logits, x0, place, p.special_ids)
  missing = count_at(place, is_clean & (z == p.pad_id))
  gap = jnp.where(has_gap(x, p.pad_id), head.log_count, -jnp.inf)
  insert = poisson_kl(jnp.log(missing), gap)
  return {
    'unmask': hazard(p.unmask, t) * jnp.where(is_masked, nats, 0.0),
    'insert': hazard(p.insert, t) * insert,
    'order': _order(is_clean),
  }


def edit_terms(p: EditPath, x0: Array, head: Any, z: Array, t: Time) -> Terms:
  """Edit Flows' bound at t, {insert, delete, substitute, order}, each [L].

  x0, z: clean and aligned, [L]. head: of x_t, which is z packed.
  """
  if not isinstance(head, Edits):
    raise TypeError(
      f'an edit path takes an Edits head, not {type(head).__name__}'
    )
  x, place = pack(z, p.pad_id)
  is_clean, is_there = x0 != p.pad_id, z != p.pad_id
  is_missing = is_clean & ~is_there
  is_deleted = is_there & ~is_clean
  is_replaced = is_there & is_clean & (z != x0)
  rate = hazard(p.schedule, t)
  gap = jnp.where(has_gap(x, p.pad_id), head.log_insert, -jnp.inf)
  insert = poisson_kl(jnp.log(count_at(place, is_missing)), gap)
  what = cross_entropy(head.logits_insert, x0, place, p.special_ids)
  insert += jnp.where(is_missing, what, 0.0)
  # Of a token that is there, `place` is its own.
  here = lambda log_rate: jnp.take_along_axis(
    log_rate, jnp.minimum(place, x0.shape[-1] - 1), axis=-1
  )
  delete = _pending(here(head.log_delete), is_deleted)
  what = cross_entropy(head.logits_substitute, x0, place, p.special_ids)
  substitute = _pending(here(head.log_substitute), is_replaced)
  substitute += jnp.where(is_replaced, what, 0.0)
  # All insertions of a path lie together after the source, if it has one.
  is_inserted = is_clean & (jnp.arange(x0.shape[-1]) >= p.source_length)
  return {
    'insert': rate * insert,
    'delete': rate * jnp.where(is_there, delete, 0.0),
    'substitute': rate * jnp.where(is_there, substitute, 0.0),
    'order': _order(is_inserted),
  }


@dataclasses.dataclass(frozen=True)
class EditNelbo:
  """One draw of t per row and the bound there, in the terms of the process.

  A bound for both processes, their source being drawn from the law that the
  sampler starts from. It is exact at the exact model of masked insertion and
  of edits from an empty source; a source of tokens leaves a gap, as x_t no
  longer tells which of its tokens are of the source.
  """

  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the nats and their terms. The text of a row is what is no
    padding; its loss lies on padding too, so the whole row must count."""
    model, p = models.student, models.student.process
    x0 = jnp.where(batch.segments > 0, batch.ids, p.pad_id)
    x0, _ = pack(x0, p.pad_id)
    t = continuous(batch.u[:, None])
    z = jax.vmap(p.corrupt)(row_keys(key, batch.rows), x0, t)
    head = model(pack(z, p.pad_id)[0], t).head
    if isinstance(p, MaskedInsertion):
      terms = growth_terms(p, x0, head, z, t)
    else:
      terms = edit_terms(p, x0, head, z, t)
    return Loss(jnp.stack(list(terms.values())).sum(0), terms)
