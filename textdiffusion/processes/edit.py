"""Forward processes that change the length of a sequence.

A row has a fixed capacity L: text packed to the left and padding after it, so
the length is where the padding begins and all shapes are static. Beside the
state x_t stands the *aligned* state z, [L], one place for each token of the
clean text (or each pair with the source text), with padding as the blank where
nothing is there at t; packing z to the left gives x_t.

Each place waits on its own clock for its edit. Looked at from noise to data,
the hazard of an edit that is still to be made is -alpha' / (1 - alpha).
"""

import jax
import jax.numpy as jnp

from textdiffusion.core.numerics import (
  fine_uniform,
  log1m_exp,
  pytree,
  static,
)
from textdiffusion.core.types import Array, Facts, Key, Time, UserError
from textdiffusion.schedules.noise import Schedule, inverse


def pack(z: Array, pad_id: int) -> tuple[Array, Array]:
  """Aligned [L] -> (x, place), both [L].

  x: the tokens of z in their order, then padding. place: where each token of
  z lies in x; of a blank, the position in x before which it would come.
  """
  is_there = z != pad_id
  order = jnp.argsort(~is_there, axis=-1, stable=True)
  place = jnp.cumsum(is_there, axis=-1) - is_there
  return jnp.take_along_axis(z, order, axis=-1), place


def lengths(x: Array, pad_id: int) -> Array:
  """Packed [L] -> [1] number of tokens."""
  return (x != pad_id).sum(-1, keepdims=True)


def has_gap(x: Array, pad_id: int) -> Array:
  """Packed [L] -> [L] whether a token may be inserted before a position.

  Nowhere in a full row; else before each token and after the last one.
  """
  size, capacity = lengths(x, pad_id), x.shape[-1]
  return (jnp.arange(capacity) <= size) & (size < capacity)


def count_at(place: Array, is_counted: Array) -> Array:
  """[L] places, [L] bool -> [L] float, how many counted ones each place has."""
  count = lambda p, w: jnp.zeros(p.shape, float).at[p].add(w, mode='drop')
  return jnp.vectorize(count, signature='(l),(l)->(l)')(
    place, is_counted.astype(float)
  )


def hazard(schedule: Schedule, t: Time) -> Array:
  """Rate, towards data, of an edit that is pending at t: shape of t."""
  level = schedule(t)
  return (level.rate * jnp.exp(-level.log_1m_alpha))[..., 0]


def log_chance(schedule: Schedule, s: Time, t: Time) -> Array:
  """log of the probability that an edit pending at t is made by s < t.

  1 - (1 - alpha_s) / (1 - alpha_t), and 1 from s = 0 on.
  """
  left = schedule(s).log_1m_alpha - schedule(t).log_1m_alpha
  is_last = jnp.asarray(s)[..., None] <= 0
  return log1m_exp(jnp.where(is_last, -jnp.inf, left))[..., 0]


@pytree
class MaskedInsertion:
  """FlexMDM: a token is first inserted, as a mask, and later unmasked.

  Kim et al. 2025, section 3. Towards data a missing token is inserted at the
  hazard of `insert`, and from then on unmasked at that of `unmask`.
  """

  insert: Schedule
  unmask: Schedule
  num_states: int = static()
  mask_id: int = static()
  pad_id: int = static()

  @property
  def special_ids(self) -> tuple[int, ...]:
    """What is no token of a text."""
    return (self.mask_id, self.pad_id)

  def refresh(self, facts: Facts) -> 'MaskedInsertion':
    """Nothing of it is learnt."""
    return self

  def corrupt(self, key: Key, x0: Array, t: Time) -> Array:
    """Clean [L] -> aligned z_t [L]: blank, mask or the token."""
    key_insert, key_unmask = jax.random.split(key)
    log_noise = jnp.log(fine_uniform(key_insert, x0.shape))
    is_missing = log_noise < self.insert(t).log_1m_alpha[..., 0]
    # Unmasking begins when the token is there, at 1 - alpha(t) = log_noise.
    since = self.unmask(inverse(self.insert, log_noise)).log_1m_alpha[..., 0]
    left = since + jnp.log(fine_uniform(key_unmask, x0.shape))
    is_masked = left < self.unmask(t).log_1m_alpha[..., 0]
    z = jnp.where(is_masked & (x0 != self.pad_id), self.mask_id, x0)
    return jnp.where(is_missing, self.pad_id, z)


@pytree
class EditPath:
  """Edit Flows: pairs of source and clean tokens, each edited at once.

  Havasi et al. 2025, section 3. The source is empty, or `source_length`
  uniform tokens; its i-th token is paired with the i-th of the clean text and
  what is left over with a blank. A pair whose tokens differ is substituted,
  deleted or inserted at the hazard of `schedule`.
  """

  schedule: Schedule
  num_states: int = static()
  pad_id: int = static()
  mask_id: int | None = static(default=None)
  source_length: int = static(default=0)

  @property
  def special_ids(self) -> tuple[int, ...]:
    """What is no token of a text."""
    ids = (self.mask_id, self.pad_id)
    return tuple(sorted(i for i in ids if i is not None))

  def source(self, key: Key, capacity: int) -> Array:
    """A source text, [L] packed. Raises UserError where it does not fit."""
    if self.source_length > capacity:
      raise UserError(
        f'method.source_length={self.source_length} is more than the row of '
        f'{capacity} tokens: lower it or raise data.length'
      )
    size = self.num_states - len(self.special_ids)
    token = jax.random.randint(key, (capacity,), 0, size)
    for special in self.special_ids:
      token += token >= special
    is_there = jnp.arange(capacity) < self.source_length
    return jnp.where(is_there, token, self.pad_id)

  def refresh(self, facts: Facts) -> 'EditPath':
    """Nothing of it is learnt."""
    return self

  def corrupt(self, key: Key, x0: Array, t: Time) -> Array:
    """Clean [L], packed -> aligned z_t [L]; a pair is pending where z != x0."""
    key_source, key_time = jax.random.split(key)
    log_noise = jnp.log(fine_uniform(key_time, x0.shape))
    is_pending = log_noise < self.schedule(t).log_1m_alpha[..., 0]
    return jnp.where(is_pending, self.source(key_source, x0.shape[-1]), x0)
