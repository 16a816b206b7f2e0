"""Bounds on -log p of texts of any length, by insertions and other edits.

A path from the source to the text is a list of timed edits, each with its
position in the current text. Given the final text, every token has its own
independent edit time. The model is a Markov chain whose rates are hazard *
expected number of pending edits. The whole path determines which token of the
text each edit produced. So the ratio of the two path densities is a product
over the edits, and the mean of its logarithm is a bound:

  E_t sum over kinds of hazard * [rate - sum over pending edits of log rate
                                  - number of pending edits].

The papers use the generalised KL y_hat - y + y log(y / y_hat) for y tokens that
are missing in a gap. This is larger by hazard * y log y, because it also counts
the order in which the tokens of a text are inserted. That surplus, about 1.2
nats per token, depends only on the length (`order_nats`), and is subtracted
here. The result is exact: with the exact model it equals -log p, which the
tests check by enumeration.

Insertion rates are counted at positions of x_t. Cross-entropies, the surplus,
deletions and substitutions are counted at tokens of the text. So the losses of
the whole row must be summed, including those at padding.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import match_ranks, poisson_kl
from textdiffusion.core.types import (
  Array,
  Batch,
  Edits,
  Growth,
  Head,
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

Terms = dict[str, Float[Array, '... L']]


def order_nats(capacity: int) -> Float[np.ndarray, ' {capacity}+1']:
  """Returns the expected nats of the order of insertions, by number of tokens.

  This is E of the sum, over insertions, of log(tokens missing in the gap). For
  n tokens inserted in uniformly random order,
  F(n) = log n + 2 / n (F(0) + ... + F(n - 1)): the entropy of the shape of a
  random binary search tree. The edit times are exchangeable, so it holds for
  every schedule.

  Args:
    capacity: largest number of tokens.

  Returns:
    [capacity + 1] F(0) ... F(capacity).
  """
  table, total = np.zeros(capacity + 1), 0.0
  for n in range(1, capacity + 1):
    table[n] = np.log(n) + 2 / n * total
    total += table[n]
  return table


def cross_entropy(
  logits: Float[Array, '... L K'],
  tokens: Int[Array, '... L'],
  place: Int[Array, '... L'],
  special_ids: tuple[int, ...],
) -> Float[Array, '... L']:
  """Computes the nats of each token of the text at its position in x_t.

  Args:
    logits: [L, K] at the positions of x_t.
    tokens: [L] tokens of the text.
    place: [L] position in x_t of each token.
    special_ids: states that get probability 0.

  Returns:
    [L] nats.
  """
  states = jnp.arange(logits.shape[-1])
  is_special = jnp.isin(states, jnp.asarray(special_ids))
  no_token, logits = match_ranks(is_special, logits)
  logits = jnp.where(no_token, -jnp.inf, logits)
  # Special ids are not tokens of the text, and their nats are never counted.
  safe = next(i for i in range(len(special_ids) + 1) if i not in special_ids)
  tokens = jnp.where(is_special[tokens], safe, tokens)
  place = jnp.minimum(place, logits.shape[-2] - 1)
  total = jax.nn.logsumexp(logits, axis=-1)
  at = jnp.vectorize(
    lambda logits, total, i, v: total[i] - logits[i, v],
    signature='(l,k),(l),(l),(l)->(l)',
  )
  return at(logits, total, place, tokens)


def _order(is_inserted: Bool[Array, '... L']) -> Float[Array, '... L']:
  """Returns [L] minus `order_nats`, spread evenly over the inserted tokens."""
  table = jnp.asarray(order_nats(is_inserted.shape[-1]))
  count = is_inserted.sum(-1, keepdims=True)
  share = table[count] / jnp.maximum(count, 1)
  return -jnp.where(is_inserted, share, 0.0)


def _pending(
  log_rate: Float[Array, '... L'], is_pending: Bool[Array, '... L']
) -> Float[Array, '... L']:
  """Returns the Poisson KL of one edit, pending or not, from its rate."""
  return poisson_kl(jnp.where(is_pending, 0.0, -jnp.inf), log_rate)


def growth_terms(
  p: MaskedInsertion,
  x0: Int[Array, '... L'],
  head: Head,
  z: Int[Array, '... L'],
  t: Time,
) -> Terms:
  """Computes the terms of FlexMDM's bound at time t.

  Args:
    p: the process.
    x0: [L] clean tokens.
    head: `Growth` at x_t, which is z packed to the left.
    z: [L] noisy tokens, aligned with x0.
    t: time.

  Returns:
    The terms unmask, insert and order, [L] nats per unit of t each.

  Raises:
    TypeError: the head is of another type.
  """
  if not isinstance(head, Growth):
    raise TypeError(
      f'masked insertion takes a Growth head, not {type(head).__name__}'
    )
  x0, z, t = match_ranks(x0, z, t)
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


def edit_terms(
  p: EditPath,
  x0: Int[Array, '... L'],
  head: Head,
  z: Int[Array, '... L'],
  t: Time,
) -> Terms:
  """Computes the terms of the bound of Edit Flows at time t.

  Args:
    p: the process.
    x0: [L] clean tokens.
    head: `Edits` at x_t, which is z packed to the left.
    z: [L] noisy tokens, aligned with x0.
    t: time.

  Returns:
    The terms insert, delete, substitute and order, [L] nats per unit of t each.

  Raises:
    TypeError: the head is of another type.
  """
  if not isinstance(head, Edits):
    raise TypeError(
      f'an edit path takes an Edits head, not {type(head).__name__}'
    )
  x0, z, t = match_ranks(x0, z, t)
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
  # For a token that is present, `place` is its own position in x_t.
  here = lambda log_rate: jnp.take_along_axis(
    log_rate, jnp.minimum(place, x0.shape[-1] - 1), axis=-1
  )
  delete = _pending(here(head.log_delete), is_deleted)
  what = cross_entropy(head.logits_substitute, x0, place, p.special_ids)
  substitute = _pending(here(head.log_substitute), is_replaced)
  substitute += jnp.where(is_replaced, what, 0.0)
  # All inserted tokens are next to each other, after those of the source.
  position, is_clean = match_ranks(jnp.arange(x0.shape[-1]), is_clean)
  is_inserted = is_clean & (position >= p.source_length)
  return {
    'insert': rate * insert,
    'delete': rate * jnp.where(is_there, delete, 0.0),
    'substitute': rate * jnp.where(is_there, substitute, 0.0),
    'order': _order(is_inserted),
  }


@dataclasses.dataclass(frozen=True)
class EditNelbo:
  """The bound of an edit process at one random time per row.

  It is a bound for both processes, because their source is drawn from the
  distribution that the sampler starts from. With the exact model it is tight
  for masked insertion and for edits from an empty source. A source of tokens
  leaves a gap, because x_t does not determine which of its tokens come from the
  source.

  Attributes:
    estimand: whether the mean of the loss bounds -log p(x0).
  """

  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the sum of the terms of the process.

    The text of a row is all that is not padding. Some of its loss is at the
    padding, so all positions of the row must be summed.
    """
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
