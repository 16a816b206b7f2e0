"""Forward processes that change the length of a sequence.

A row has a fixed capacity L: the text is packed to the left and followed by
padding, so the length is the start of the padding and all shapes are static.
The *aligned* state z, [L], has one place for each token of the clean text (or
for each pair of a source token and a clean token). Places that hold no token at
time t contain padding (blanks). Packing z to the left gives the state x_t.

Every place has its own random edit time. In the direction from noise to data,
the hazard of an edit that is still pending is -alpha' / (1 - alpha).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.numerics import (
  fine_uniform,
  log1m_exp,
  match_ranks,
  pytree,
  static,
)
from textdiffusion.core.types import Array, Facts, Key, Time, UserError
from textdiffusion.schedules.noise import Schedule, inverse


def pack(
  z: Int[Array, '... L'], pad_id: int
) -> tuple[Int[Array, '... L'], Int[Array, '... L']]:
  """Packs an aligned state [L] to the left.

  Args:
    z: [L] tokens and blanks.
    pad_id: id of padding and blanks.

  Returns:
    x, [L]: the tokens of z in their order, then padding. And place, [L]: the
    position in x of each token of z; for a blank, the position in x before
    which its token would be inserted.
  """
  is_there = z != pad_id
  order = jnp.argsort(~is_there, axis=-1, stable=True)
  place = jnp.cumsum(is_there, axis=-1) - is_there
  return jnp.take_along_axis(z, order, axis=-1), place


def lengths(x: Int[Array, '... L'], pad_id: int) -> Int[Array, '... 1']:
  """Returns the number of tokens in a packed row [L]: [1]."""
  return (x != pad_id).sum(-1, keepdims=True)


def has_gap(x: Int[Array, '... L'], pad_id: int) -> Bool[Array, '... L']:
  """Returns [L] whether a token may be inserted before each position.

  This is before each token and after the last one, and nowhere in a full row.

  Args:
    x: [L] packed row.
    pad_id: id of padding.
  """
  capacity = x.shape[-1]
  size, position = match_ranks(lengths(x, pad_id), jnp.arange(capacity))
  return (position <= size) & (size < capacity)


def count_at(
  place: Int[Array, '... L'], is_counted: Bool[Array, '... L']
) -> Float[Array, '... L']:
  """Returns the number of counted tokens at each place: float [L].

  Args:
    place: [L] place of each token.
    is_counted: [L] which tokens to count.
  """
  count = lambda p, w: jnp.zeros(p.shape, float).at[p].add(w, mode='drop')
  return jnp.vectorize(count, signature='(l),(l)->(l)')(
    place, is_counted.astype(float)
  )


def hazard(schedule: Schedule, t: Time) -> Float[Array, '...']:
  """Returns the rate, from noise to data, of an edit that is pending at t.

  The result has the shape of t.
  """
  level = schedule(t)
  return (level.rate * jnp.exp(-level.log_1m_alpha))[..., 0]


def log_chance(schedule: Schedule, s: Time, t: Time) -> Float[Array, '...']:
  """Returns the log probability that an edit pending at t is made by s < t.

  The probability is 1 - (1 - alpha_s) / (1 - alpha_t), and 1 for s = 0.

  Args:
    schedule: schedule of the edit times.
    s: end of the step.
    t: start of the step.
  """
  s, t = match_ranks(jnp.asarray(s), jnp.asarray(t))
  left = schedule(s).log_1m_alpha - schedule(t).log_1m_alpha
  is_last = s[..., None] <= 0
  return log1m_exp(jnp.where(is_last, -jnp.inf, left))[..., 0]


@pytree
class MaskedInsertion:
  """FlexMDM: a token is first inserted as a mask, and later unmasked.

  Kim et al. 2025, section 3. From noise to data, a missing token is inserted at
  the hazard of `insert`, and then unmasked at the hazard of `unmask`.

  Attributes:
    insert: schedule of the insertions.
    unmask: schedule of the unmasking.
    num_states: number of states of a token, K.
    mask_id: id of the mask.
    pad_id: id of the padding.
  """

  insert: Schedule
  unmask: Schedule
  num_states: int = static()
  mask_id: int = static()
  pad_id: int = static()

  @property
  def special_ids(self) -> tuple[int, ...]:
    """The states that are not tokens of a text."""
    return (self.mask_id, self.pad_id)

  def refresh(self, facts: Facts) -> 'MaskedInsertion':
    """Returns the process itself, as nothing of it is learnt."""
    return self

  def corrupt(
    self, key: Key, x0: Int[Array, '... L'], t: Time
  ) -> Int[Array, '... L']:
    """Draws a noisy state, aligned with the clean text.

    Args:
      key: random key.
      x0: [L] clean text, packed.
      t: times that broadcast against [L].

    Returns:
      [L] blanks, masks and tokens of the text.
    """
    x0, t = match_ranks(x0, t)
    key_insert, key_unmask = jax.random.split(key)
    log_noise = jnp.log(fine_uniform(key_insert, x0.shape))
    is_missing = log_noise < self.insert(t).log_1m_alpha[..., 0]
    # The unmasking time starts when the token is inserted, at the t with
    # log(1 - alpha(t)) = log_noise.
    since = self.unmask(inverse(self.insert, log_noise)).log_1m_alpha[..., 0]
    left = since + jnp.log(fine_uniform(key_unmask, x0.shape))
    is_masked = left < self.unmask(t).log_1m_alpha[..., 0]
    z = jnp.where(is_masked & (x0 != self.pad_id), self.mask_id, x0)
    return jnp.where(is_missing, self.pad_id, z)


@pytree
class EditPath:
  """Edit Flows: pairs of source and clean tokens, each changed by one edit.

  Havasi et al. 2025, section 3. The source is empty, or consists of
  `source_length` uniform tokens. Its i-th token is paired with the i-th token
  of the clean text; tokens without a partner are paired with a blank. A pair
  whose tokens differ is substituted, deleted or inserted at the hazard of
  `schedule`.

  Attributes:
    schedule: schedule of the edits.
    num_states: number of states of a token, K.
    pad_id: id of the padding.
    mask_id: id of the mask, which never occurs; None for no mask.
    source_length: tokens of the source.
  """

  schedule: Schedule
  num_states: int = static()
  pad_id: int = static()
  mask_id: int | None = static(default=None)
  source_length: int = static(default=0)

  @property
  def special_ids(self) -> tuple[int, ...]:
    """The states that are not tokens of a text."""
    ids = (self.mask_id, self.pad_id)
    return tuple(sorted(i for i in ids if i is not None))

  def source(self, key: Key, capacity: int) -> Int[Array, ' {capacity}']:
    """Draws a packed source text, [L] with L = capacity.

    Raises:
      UserError: the source is longer than the row.
    """
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
    """Returns the process itself, as nothing of it is learnt."""
    return self

  def corrupt(
    self, key: Key, x0: Int[Array, '... L'], t: Time
  ) -> Int[Array, '... L']:
    """Draws a noisy state, aligned with the clean text.

    Args:
      key: random key.
      x0: [L] clean text, packed.
      t: times that broadcast against [L].

    Returns:
      [L] tokens and blanks z. Edits are pending where z differs from x0.
    """
    key_source, key_time = jax.random.split(key)
    source = self.source(key_source, x0.shape[-1])
    source, x0, t = match_ranks(source, x0, t)
    log_noise = jnp.log(fine_uniform(key_time, x0.shape))
    is_pending = log_noise < self.schedule(t).log_1m_alpha[..., 0]
    return jnp.where(is_pending, source, x0)
