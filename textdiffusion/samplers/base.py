"""The contract of a sampler, and the one loop that runs it."""

import abc
import dataclasses
import functools
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Int, Integer, Shaped

from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.types import Array, Dist, Key, UserError, Vocab
from textdiffusion.guidance import acceptor_of
from textdiffusion.model import Model

SPECIAL_IDS = 'bos_id', 'eos_id'  # fields that a tokenizer fills in

T = TypeVar('T')
# A NamedTuple with fields `x` and `calls`, and mostly `log_prob`.
Carry = Any


class Canvas(NamedTuple):
  """What is to be filled in.

  Attributes:
    ids: tokens; those that are not given do not matter.
    is_given: True where a token is kept as it is.
    rows: numbers from which the keys of the rows are derived, arange(B) if
      None. A row is sampled the same whatever batch it is in.
  """

  ids: Int[Array, 'B L']
  is_given: Bool[Array, 'B L']
  rows: Integer[Array, ' B'] | None = None


class Frame(NamedTuple):
  """A state of a chain as text; a trace holds its N states, stacked.

  Attributes:
    ids: tokens.
    log_prob: log-probability of each token when it was drawn.
  """

  ids: Int[Array, '... B L']
  log_prob: Float[Array, '... B L']


class Samples(NamedTuple):
  """The result of `generate`.

  Attributes:
    ids: tokens.
    log_prob: as in `Frame`.
    steps: number of steps of each row.
    calls: number of calls of the network.
    trace: the N = T + 1 frames, the start first; None without a trace.
    times: times of the frames; None without a trace.
    is_given: where given tokens ended up, for samplers that move tokens.
    refused: insertions that found no room, for the same samplers.
  """

  ids: Int[Array, 'B L']
  log_prob: Float[Array, 'B L']
  steps: Int[Array, ' B']
  calls: Int[Array, '']
  trace: Frame | None = None
  times: Float[Array, ' N'] | None = None
  is_given: Bool[Array, 'B L'] | None = None
  refused: Int[Array, ' B'] | None = None


class Chain(NamedTuple):
  """The smallest carry; others have these fields and more.

  Attributes:
    x: ids.
    log_prob: log-probability of each token when it was last drawn, as noise or
      by a step.
    calls: calls of the network so far.
  """

  x: Int[Array, 'B L']
  log_prob: Float[Array, 'B L']
  calls: Int[Array, '']


class Sampler(abc.ABC):
  """A way to fill in a canvas; subclasses are frozen dataclasses of options.

  `step` receives one key for each row, and times s < t that are [B, L] and 0 at
  given tokens. So prompts and infilling are exact for every process, and no
  sampler needs a case of its own for given tokens.
  """

  def check(self, model: Model) -> None:  # noqa: B027 optional
    """Raises UserError where sampler and model do not fit."""

  def takes_constraints(self, model: Model) -> bool:
    """Whether it draws clean tokens by `clean_tokens`, which keeps them."""
    return False

  @abc.abstractmethod
  def times(self, model: Model, canvas: Canvas) -> Float[Array, 'N ...']:
    """Returns descending times, [T + 1], or [T + 1, L] for each position.

    T is the largest number of steps.
    """

  @abc.abstractmethod
  def init(self, keys: Key, model: Model, canvas: Canvas) -> Carry:
    """Returns the carry before the first step. keys: [B]."""

  @abc.abstractmethod
  def step(
    self,
    keys: Key,
    model: Model,
    carry: Carry,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Carry:
    """Returns the carry at s, from that at t. keys: [B]."""

  def is_done(self, model: Model, carry: Carry) -> Bool[Array, ' B']:
    """Returns True for rows that no further step changes."""
    return jnp.zeros(len(carry.x), bool)

  def frame(self, model: Model, carry: Carry) -> Frame:
    """Returns the state as text."""
    return Frame(carry.x, carry.log_prob)


def check_canvas(canvas: Canvas) -> None:
  """Raises UserError unless a canvas has the shapes and types of its fields."""
  ids, is_given, rows = canvas
  shape, dtype = (
    functools.partial(
      check, exception_type=UserError, include_default_message=False
    )
    for check in (chex.assert_shape, chex.assert_type)
  )
  shape(
    ids,
    (None, None),
    custom_message='Canvas.ids has rows of tokens, [B, L]: pass ids[None] for '
    'a single row',
  )
  dtype(
    ids, int, custom_message='Canvas.ids holds numbers of tokens: pass integers'
  )
  shape(
    is_given,
    ids.shape,
    custom_message='Canvas.is_given has one value for each token of Canvas.ids',
  )
  dtype(
    is_given,
    bool,
    custom_message='Canvas.is_given is True at given tokens: pass a bool array',
  )
  if rows is not None:
    shape(
      rows,
      ids.shape[:1],
      custom_message='Canvas.rows has one number for each row of Canvas.ids: '
      'pass those, or None for 0, 1, ...',
    )


# Fields of a row that is done stay as they are. Others, such as a cache, are
# not read again, and copying them would cost.
_FROZEN = ('x', 'log_prob')


def generate(
  model: Model,
  canvas: Canvas,
  key: Key,
  sampler: Sampler,
  trace: bool = False,
) -> Samples:
  """Fills in a canvas, [B, L]. Pure; jit it with a static sampler.

  Rows freeze when they are done, and the loop ends with the last row.

  Args:
    model: a trained reverse of a process.
    canvas: the tokens that are given, and where the others go.
    key: one key.
    sampler: how to sample.
    trace: whether to keep the ids and log-probabilities of every step. The
      samples are the same.

  Raises:
    UserError: the sampler does not fit the model or the canvas, or the arrays
      of the canvas do not fit each other.
  """
  check_canvas(canvas)
  sampler.check(model)
  if acceptor_of(model) and not sampler.takes_constraints(model):
    raise UserError(
      f'{type(sampler).__name__}() cannot keep a constraint with '
      f'{type(model.process).__name__}: it takes masks, uniform or mixed '
      'noise, guidance of heads only, and a sampler such as Ancestral() or '
      'FirstHitting()'
    )
  rows = jnp.arange(len(canvas.ids)) if canvas.rows is None else canvas.rows
  grid, key_loop = sampler.times(model, canvas), stream(key, 'loop')
  carry = sampler.init(row_keys(stream(key, 'start'), rows), model, canvas)
  count, last = jnp.zeros(len(rows), jnp.int32), len(grid) - 1

  def advance(
    index: Int[Array, ''], carry: Carry, count: Int[Array, ' B']
  ) -> tuple[Carry, Int[Array, ' B']]:
    is_done = sampler.is_done(model, carry)
    keys = row_keys(jax.random.fold_in(key_loop, index), rows)
    s, t = (
      jnp.where(canvas.is_given, 0.0, jnp.atleast_2d(time))
      for time in (grid[index + 1], grid[index])
    )
    after = sampler.step(keys, model, carry, s, t)
    return freeze(carry, after, is_done), count + ~is_done

  def result(carry: Carry, count: Int[Array, ' B'], **traced: Any) -> Samples:
    names = 'is_given', 'refused'
    moved = {name: getattr(carry, name, None) for name in names}
    frame = sampler.frame(model, carry)
    return Samples(*frame, count, carry.calls, **traced, **moved)

  if not trace:
    carry, count = jax.lax.while_loop(
      lambda state: (
        (state[0] < last) & ~sampler.is_done(model, state[1][0]).all()
      ),
      lambda state: (state[0] + 1, advance(state[0], *state[1])),
      (jnp.zeros((), jnp.int32), (carry, count)),
    )[1]
    return result(carry, count)

  def body(
    state: tuple[Carry, Array], index: Int[Array, '']
  ) -> tuple[tuple[Carry, Array], Frame]:
    all_done = sampler.is_done(model, state[0]).all()
    state = jax.lax.cond(
      all_done, lambda state: state, lambda state: advance(index, *state), state
    )
    return state, sampler.frame(model, state[0])

  first = sampler.frame(model, carry)
  (carry, count), rest = jax.lax.scan(body, (carry, count), jnp.arange(last))
  frames = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
  # Where positions have times of their own, the largest is reported.
  times = grid.reshape(len(grid), -1).max(-1)
  return result(carry, count, trace=frames, times=times)


def freeze(carry: Carry, after: Carry, is_done: Bool[Array, ' B']) -> Carry:
  """Returns the carry after a step, in which rows that were done stay."""
  frozen = {
    name: jnp.where(
      _like(is_done, new := getattr(after, name)), getattr(carry, name), new
    )
    for name in _FROZEN
    if hasattr(carry, name)
  }
  return after._replace(**frozen)


def _like(
  rows: Shaped[Array, ' B'], x: Shaped[Array, 'B ...']
) -> Shaped[Array, 'B ...']:
  """[B] -> [B, 1, ...] with as many axes as x."""
  return rows.reshape(rows.shape + (1,) * (x.ndim - 1))


def split(keys: Key, num: int = 2) -> Key:
  """[B] keys -> [num, B] keys."""
  return jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(keys)


def draw_rows(keys: Key, dist: Dist) -> Shaped[Array, 'B ...']:
  """Draws each row of a distribution with its own key; leaves lead with B."""
  return jax.vmap(lambda key, dist: dist.sample(key))(keys, dist)


def take_at(tree: T, places: Int[Array, 'B n']) -> T:
  """[B, L, ...] -> [B, n, ...] at the places [B, n] of each row."""

  def take(x: Shaped[Array, 'B L ...']) -> Shaped[Array, 'B n ...']:
    index = places.reshape(*places.shape, *(1,) * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1)

  return jax.tree.map(take, tree)


def refuse_given(canvas: Canvas, ids: tuple[int, ...], name: str) -> None:
  """Raises UserError where one of `ids` is given: no text has it.

  Under jit the canvas has no values, and nothing is checked.
  """
  if isinstance(canvas.ids, Tracer) or isinstance(canvas.is_given, Tracer):
    return
  tokens = np.asarray(canvas.ids)
  is_wrong = np.asarray(canvas.is_given) & np.isin(tokens, ids)
  if is_wrong.any():
    raise UserError(
      f'a given token is {name} (id {tokens[is_wrong][0]}): mark it free '
      'instead'
    )


def with_special_ids(sampler: Sampler, vocab: Vocab) -> Sampler:
  """Returns the sampler with the ids of a tokenizer.

  Fields `bos_id` and `eos_id` that are None are set, those of inner samplers
  too.
  """
  changes: dict[str, Any] = {}
  for field in dataclasses.fields(sampler):  # ty: ignore[invalid-argument-type]
    value = getattr(sampler, field.name)
    if isinstance(value, Sampler):
      changes[field.name] = with_special_ids(value, vocab)
    elif field.name in SPECIAL_IDS and value is None:
      changes[field.name] = getattr(vocab, field.name)
  return dataclasses.replace(sampler, **changes)  # ty: ignore[invalid-argument-type]
