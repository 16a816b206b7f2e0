"""The contract of a sampler, and the one loop that runs it."""

import abc
import dataclasses
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.types import Array, Key, UserError, Vocab
from textdiffusion.model import Model

SPECIAL_IDS = 'bos_id', 'eos_id'  # fields that a tokenizer fills in

T = TypeVar('T')
# A NamedTuple with fields `x` and `calls`, and mostly `log_prob`.
Carry = Any


class Canvas(NamedTuple):
  """What is to be filled in.

  Attributes:
    ids: [B, L] tokens; those that are not given do not matter.
    is_given: [B, L] True where a token is kept as it is.
    rows: [B] numbers from which the keys of the rows are derived, arange(B) if
      None. A row is sampled the same whatever batch it is in.
  """

  ids: Array
  is_given: Array
  rows: Array | None = None


class Frame(NamedTuple):
  """A state of a chain as text.

  Attributes:
    ids: [B, L] tokens.
    log_prob: [B, L] log-probability of each token when it was drawn.
  """

  ids: Array
  log_prob: Array


class Samples(NamedTuple):
  """The result of `generate`.

  Attributes:
    ids: [B, L] tokens.
    log_prob: [B, L] as in `Frame`.
    steps: [B] steps of each row.
    calls: [] calls of the network.
    trace: frames [T + 1, B, L], the start first; None without a trace.
    times: [T + 1] of the frames; None without a trace.
    is_given: [B, L] where given tokens ended up, for samplers that move tokens.
    refused: [B] insertions that found no room, for the same samplers.
  """

  ids: Array
  log_prob: Array
  steps: Array
  calls: Array
  trace: Frame | None = None
  times: Array | None = None
  is_given: Array | None = None
  refused: Array | None = None


class Chain(NamedTuple):
  """The smallest carry; others have these fields and more.

  Attributes:
    x: [B, L] ids.
    log_prob: [B, L] log-probability of each token when it was last drawn, as
      noise or by a step.
    calls: [] calls of the network so far.
  """

  x: Array
  log_prob: Array
  calls: Array


class Sampler(abc.ABC):
  """A way to fill in a canvas; subclasses are frozen dataclasses of options.

  `step` receives one key for each row, and times s < t that are [B, L] and 0 at
  given tokens. So prompts and infilling are exact for every process, and no
  sampler needs a case of its own for given tokens.
  """

  def check(self, model: Model) -> None:  # noqa: B027 optional
    """Raises UserError where sampler and model do not fit."""

  @abc.abstractmethod
  def times(self, model: Model, canvas: Canvas) -> Array:
    """Returns descending times, [T + 1], or [T + 1, L] for each position.

    T is the largest number of steps.
    """

  @abc.abstractmethod
  def init(self, keys: Key, model: Model, canvas: Canvas) -> Carry:
    """Returns the carry before the first step. keys: [B]."""

  @abc.abstractmethod
  def step(
    self, keys: Key, model: Model, carry: Any, s: Array, t: Array
  ) -> Carry:
    """Returns the carry at s, from that at t. keys: [B]."""

  def is_done(self, model: Model, carry: Any) -> Array:
    """Returns [B], True for rows that no further step changes."""
    return jnp.zeros(len(carry.x), bool)

  def frame(self, model: Model, carry: Any) -> Frame:
    """Returns the state as text."""
    return Frame(carry.x, carry.log_prob)


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
    UserError: the sampler does not fit the model or the canvas.
  """
  sampler.check(model)
  rows = jnp.arange(len(canvas.ids)) if canvas.rows is None else canvas.rows
  grid, key_loop = sampler.times(model, canvas), stream(key, 'loop')
  carry = sampler.init(row_keys(stream(key, 'start'), rows), model, canvas)
  count, last = jnp.zeros(len(rows), jnp.int32), len(grid) - 1

  def advance(index: Array, carry: Any, count: Array) -> tuple[Any, Array]:
    is_done = sampler.is_done(model, carry)
    keys = row_keys(jax.random.fold_in(key_loop, index), rows)
    s, t = (
      jnp.where(canvas.is_given, 0.0, jnp.atleast_2d(time))
      for time in (grid[index + 1], grid[index])
    )
    after = sampler.step(keys, model, carry, s, t)
    frozen = {
      name: jnp.where(
        _like(is_done, new := getattr(after, name)), getattr(carry, name), new
      )
      for name in _FROZEN
      if hasattr(carry, name)
    }
    return after._replace(**frozen), count + ~is_done

  def result(carry: Any, count: Array, **traced: Any) -> Samples:
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

  def body(state: Any, index: Array) -> tuple[Any, Frame]:
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


def _like(rows: Array, x: Array) -> Array:
  """[B] -> [B, 1, ...] with as many axes as x."""
  return rows.reshape(rows.shape + (1,) * (x.ndim - 1))


def split(keys: Key, num: int = 2) -> Key:
  """[B] keys -> [num, B] keys."""
  return jax.vmap(lambda key: jax.random.split(key, num), out_axes=1)(keys)


def draw_rows(keys: Key, dist: Any) -> Array:
  """Draws each row of a distribution with its own key; leaves lead with B."""
  return jax.vmap(lambda key, dist: dist.sample(key))(keys, dist)


def take_at(tree: T, places: Array) -> T:
  """[B, L, ...] -> [B, n, ...] at the places [B, n] of each row."""

  def take(x: Array) -> Array:
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
