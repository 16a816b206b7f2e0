"""Schedules that follow the loss: a noise level for each position and step
(SeqDiffuSeq, Yuan et al. 2024), and times drawn where the loss is large
(Nichol & Dhariwal 2021, section 3.3).

Both are states of training: pure functions from state to state, arrays that a
checkpoint keeps and that no refit compiles anew.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from textdiffusion.core.numerics import by_parts, pytree
from textdiffusion.core.types import Array, Time
from textdiffusion.schedules.noise import NoiseLevel, Schedule, inverse
from textdiffusion.schedules.times import discrete, place

_RISE = 1e-5  # the least by which the loss grows from bin to bin


class LossHistory(NamedTuple):
  """Losses since the last refit. total, count: [bins, L], sums over tokens."""

  total: Array
  count: Array

  def add(
    self, place: Array, losses: Array, is_counted: Array
  ) -> 'LossHistory':
    """Tokens of a batch at its places in time.

    Args:
      place: [B] in [0, 1), (i - 1) / T of step i.
      losses: [B, L] mean squared errors.
      is_counted: [B, L].
    """
    bins = jnp.floor(place * len(self.total) + 1e-6).astype(int)
    return LossHistory(
      self.total.at[bins].add(jnp.where(is_counted, losses, 0.0)),
      self.count.at[bins].add(is_counted.astype(self.count.dtype)),
    )


def empty_history(bins: int, length: int) -> LossHistory:
  """One pseudo-observation a bin, rising from 0 to 0.5."""
  rising = jnp.linspace(0.0, 0.5, bins)[:, None]
  return LossHistory(
    jnp.broadcast_to(rising, (bins, length)), jnp.ones((bins, length))
  )


def refit(alpha: Array, history: LossHistory, keep_first: bool = True) -> Array:
  """[T, L] signals -> those under which the loss is linear in t: [T, L].

  Loss as a function of alpha is taken piecewise linear between the means of the
  bins, and made to rise; alpha is read off it at T equal steps of loss. Beyond
  the outer bins it goes on for half a bin, to the ends of all alpha.

  keep_first: position 0, which is always the same token, keeps its own.
  """
  num_steps, length = alpha.shape
  bins = len(history.total)
  if num_steps % bins:
    raise ValueError(f'{num_steps} steps do not fall into {bins} equal bins')
  rank = _RISE * jnp.arange(bins)[:, None]
  loss = history.total / history.count
  loss = jax.lax.cummax(loss - rank) + rank
  before = loss[:1] - (loss[1:2] - loss[:1]) / 2
  after = loss[-1:] + (loss[-1:] - loss[-2:-1]) / 2
  loss = jnp.concatenate([before, loss, after])
  means = alpha.reshape(bins, -1, length).mean(1)
  ends = jnp.ones((1, length))
  known = jnp.concatenate([alpha.max() * ends, means, alpha.min() * ends])

  def read(loss: Array, known: Array) -> Array:
    levels = jnp.linspace(loss.min() - _RISE, loss.max() + _RISE, num_steps)
    return jnp.interp(levels, loss, known)

  fresh = jax.vmap(read, 1, 1)(loss, known)
  return fresh.at[:, 0].set(alpha[:, 0]) if keep_first else fresh


@pytree
class PerPosition:
  """A level for each position on the grid i / T. alpha: [T, L], of i from 1."""

  alpha: Array

  @property
  def num_steps(self) -> int:
    """T."""
    return self.alpha.shape[0]

  def __call__(self, t: Time) -> NoiseLevel:
    """t: scalar or broadcasting against [L] -> levels [..., L, 1]."""
    num_steps, length = self.alpha.shape
    i, at = place(t, num_steps), jnp.arange(length)
    read = lambda i: jnp.where(
      i > 0, self.alpha[jnp.maximum(i - 1, 0), at], 1.0
    )
    alpha, before = read(i), read(jnp.maximum(i - 1, 0))
    level = NoiseLevel(
      jnp.log(alpha), jnp.log1p(-alpha), num_steps * (before - alpha)
    )
    return NoiseLevel(*(x[..., None] for x in level))


class Adaptive(NamedTuple):
  """A schedule and the losses under it, of SeqDiffuSeq and CDCD."""

  schedule: PerPosition
  history: LossHistory


class Refits(NamedTuple):
  """When and how a schedule follows the loss.

  alpha: [T, L] of the start, or [T, 1] of all positions alike. bins: of the T
  steps. every, since: training steps between refits, and before the first.
  """

  alpha: Array
  bins: int
  every: int
  since: int
  keep_first: bool = False

  def init(self) -> Adaptive:
    """Returns the schedule of the start, without losses."""
    return Adaptive(PerPosition(self.alpha), self._empty())

  def before_step(self, old: Adaptive, step: Array) -> Adaptive:
    """Returns the schedule under which training step `step` is taken."""
    is_due = (step > 0) & (step >= self.since) & (step % self.every == 0)

    def fresh() -> Adaptive:
      alpha = refit(old.schedule.alpha, old.history, self.keep_first)
      return Adaptive(PerPosition(alpha), self._empty())

    return jax.lax.cond(is_due, fresh, lambda: old)

  def observe(
    self, old: Adaptive, u: Array, losses: Array, is_seen: Array
  ) -> Adaptive:
    """u: [B] of the times. losses, is_seen: [B, L]."""
    place, _ = discrete(u, len(self.alpha))
    return old._replace(history=old.history.add(place, losses, is_seen))

  def _empty(self) -> LossHistory:
    return empty_history(self.bins, self.alpha.shape[1])


class SecondMoment(NamedTuple):
  """The last losses at each of T steps. losses: [T, H], the newest last.
  count: [T], how many of them are."""

  losses: Array
  count: Array

  def add(self, index: Array, losses: Array) -> 'SecondMoment':
    """Losses [N] of steps [N] in 0 ... T - 1, one after another."""

    def one(state: 'SecondMoment', seen: tuple[Array, Array]):
      i, loss = seen
      row = jnp.roll(state.losses[i], -1).at[-1].set(loss)
      most = state.losses.shape[1]
      return SecondMoment(
        state.losses.at[i].set(row),
        state.count.at[i].set(jnp.minimum(state.count[i] + 1, most)),
      ), None

    return jax.lax.scan(one, self, (index, losses))[0]

  def probs(self, uniform: float = 1e-3) -> Array:
    """[T] in proportion to the root of the mean squared loss, mixed with the
    even law by `uniform`; even until every step has its H losses."""
    num_steps, most = self.losses.shape
    root = jnp.sqrt(jnp.square(self.losses).mean(-1))
    even = jnp.full(num_steps, 1 / num_steps)
    some = root.sum() > 0
    share = jnp.where(some, root / jnp.where(some, root.sum(), 1.0), even)
    mixed = (1 - uniform) * share + uniform * even
    return jnp.where((self.count == most).all(), mixed, even)

  def draw(self, u: Array, uniform: float = 1e-3) -> tuple[Array, Array]:
    """Stratified u in (0, 1), any shape -> (steps in 0 ... T - 1, weights).

    A loss times its weight, 1 / (T p), has the mean of even steps.
    """
    p = self.probs(uniform)
    index = jnp.searchsorted(jnp.cumsum(p), u, side='right')
    index = jnp.minimum(index, len(p) - 1)
    return index, 1 / (len(p) * p[index])


class LeastNoise(NamedTuple):
  """Training times from `time` on: [] in [0, 1]."""

  time: Array


def nearest_noise(schedule: Schedule, table: Array) -> LeastNoise:
  """Where noise begins to reach from an embedding to its neighbours (DINOISER,
  Ye et al. 2023): 1 - alpha = v / (1 + v), v the mean over [K, D] embeddings of
  the squared distance to the nearest other one, by dimension.

  Below it a network learns little: the tokens can be read off x_t.
  """
  half = 0.5 * jnp.square(table).sum(-1)

  def nearest(rows: Array) -> Array:  # [n, D + 1], the last one the row's place
    x, place = rows[:, :-1], rows[:, -1:]
    gap = half + 0.5 * jnp.square(x).sum(-1, keepdims=True) - x @ table.T
    is_itself = jnp.arange(len(table)) == place
    return 2 * jnp.where(is_itself, jnp.inf, gap).min(-1)

  places = jnp.arange(len(table), dtype=table.dtype)[:, None]
  squares = by_parts(nearest, jnp.concatenate([table, places], -1), len(table))
  v = jnp.maximum(squares.mean() / table.shape[1], 1e-12)
  return LeastNoise(inverse(schedule, -jnp.log1p(1 / v)))


def no_losses(num_steps: int, kept: int = 10) -> SecondMoment:
  """Nothing seen yet."""
  return SecondMoment(
    jnp.zeros((num_steps, kept)), jnp.zeros(num_steps, jnp.int32)
  )
