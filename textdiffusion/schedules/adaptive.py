"""Schedules and training times that are fitted to the loss during training.

`Adaptive` is a noise schedule per position (SeqDiffuSeq, Yuan et al. 2024).
`SecondMoment` draws times more often where the loss is large (Nichol &
Dhariwal 2021, section 3.3). `SmallestTime` is the smallest useful training time
(DINOISER, Ye et al. 2023).

All are training states: pytrees of arrays, stored in checkpoints and updated by
pure functions, so that a new fit compiles nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.numerics import by_parts, match_ranks, pytree
from textdiffusion.core.types import Array, Time
from textdiffusion.schedules.noise import NoiseLevel, Schedule, inverse
from textdiffusion.schedules.times import discrete, place

_RISE = 1e-5  # The smallest increase of the fitted loss from bin to bin.


class LossHistory(NamedTuple):
  """Losses since the last fit.

  Attributes:
    total: [bins, L] sums of losses over tokens.
    count: [bins, L] numbers of tokens.
  """

  total: Float[Array, 'bins L']
  count: Float[Array, 'bins L']

  def add(
    self,
    place: Float[Array, ' B'],
    losses: Float[Array, 'B L'],
    is_counted: Bool[Array, 'B L'],
  ) -> 'LossHistory':
    """Adds the losses of a batch.

    Args:
      place: [B] start of the step of each row, (i - 1) / T for step i.
      losses: [B, L] losses of the tokens.
      is_counted: [B, L], False for tokens whose loss is ignored.
    """
    bins = jnp.floor(place * len(self.total) + 1e-6).astype(int)
    return LossHistory(
      self.total.at[bins].add(jnp.where(is_counted, losses, 0.0)),
      self.count.at[bins].add(is_counted.astype(self.count.dtype)),
    )


def empty_history(bins: int, length: int) -> LossHistory:
  """Returns a history with one pseudo-observation per bin, from 0 to 0.5."""
  rising = jnp.linspace(0.0, 0.5, bins)[:, None]
  return LossHistory(
    jnp.broadcast_to(rising, (bins, length)), jnp.ones((bins, length))
  )


def refit(
  alpha: Float[Array, 'T L'], history: LossHistory, keep_first: bool = True
) -> Float[Array, 'T L']:
  """Fits a schedule under which the loss is linear in t.

  The loss as a function of alpha is interpolated linearly between the means of
  the bins, after it is made increasing. The new alphas are its values at T
  equal steps of the loss. Beyond the outer bins, the loss is extrapolated by
  half a bin, to the smallest and the largest alpha.

  Args:
    alpha: [T, L] alphas under which the losses were measured.
    history: the losses.
    keep_first: whether position 0 keeps its alphas, for rows that always start
      with the same token.

  Returns:
    [T, L] new alphas.
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

  def read(
    loss: Float[Array, ' n'], known: Float[Array, ' n']
  ) -> Float[Array, ' T']:
    levels = jnp.linspace(loss.min() - _RISE, loss.max() + _RISE, num_steps)
    return jnp.interp(levels, loss, known)

  fresh = jax.vmap(read, 1, 1)(loss, known)
  return fresh.at[:, 0].set(alpha[:, 0]) if keep_first else fresh


@pytree
class PerPosition:
  """A noise schedule per position, given on the grid i / T.

  Attributes:
    alpha: [T, L] alphas at i = 1 ... T.
  """

  alpha: Float[Array, 'T L']

  @property
  def num_steps(self) -> int:
    """The number of steps, T."""
    return self.alpha.shape[0]

  def __call__(self, t: Time) -> NoiseLevel:
    """Returns levels [..., L, 1] at times that broadcast against [L]."""
    num_steps, length = self.alpha.shape
    i, at = match_ranks(place(t, num_steps), jnp.arange(length))
    read = lambda i: jnp.where(
      i > 0, self.alpha[jnp.maximum(i - 1, 0), at], 1.0
    )
    alpha, before = read(i), read(jnp.maximum(i - 1, 0))
    level = NoiseLevel(
      jnp.log(alpha), jnp.log1p(-alpha), num_steps * (before - alpha)
    )
    return NoiseLevel(*(x[..., None] for x in level))


class Adaptive(NamedTuple):
  """The training state of SeqDiffuSeq and CDCD.

  Attributes:
    schedule: the current schedule.
    history: losses under this schedule.
  """

  schedule: PerPosition
  history: LossHistory


class Refits(NamedTuple):
  """The rule for when and how a schedule is fitted to the loss.

  Attributes:
    alpha: [T, L] initial alphas, or [T, 1] if all positions share one schedule.
    bins: number of bins of the T steps in which losses are averaged.
    every: training steps between fits.
    since: training step of the first fit.
    keep_first: whether position 0 keeps its alphas.
  """

  alpha: Float[Array, 'T L']
  bins: int
  every: int
  since: int
  keep_first: bool = False

  def init(self) -> Adaptive:
    """Returns the initial schedule, without losses."""
    return Adaptive(PerPosition(self.alpha), self._empty())

  def before_step(self, old: Adaptive, step: Int[Array, '']) -> Adaptive:
    """Returns the state for training step `step`, fitted anew if it is due."""
    is_due = (step > 0) & (step >= self.since) & (step % self.every == 0)

    def fresh() -> Adaptive:
      alpha = refit(old.schedule.alpha, old.history, self.keep_first)
      return Adaptive(PerPosition(alpha), self._empty())

    return jax.lax.cond(is_due, fresh, lambda: old)

  def observe(
    self,
    old: Adaptive,
    u: Float[Array, ' B'],
    losses: Float[Array, 'B L'],
    is_counted: Bool[Array, 'B L'],
  ) -> Adaptive:
    """Adds the losses of a batch to the state.

    Args:
      old: the state.
      u: [B] numbers in (0, 1) that the times were drawn from.
      losses: [B, L] losses of the tokens.
      is_counted: [B, L], False for tokens whose loss is ignored.
    """
    place, _ = discrete(u, len(self.alpha))
    return old._replace(history=old.history.add(place, losses, is_counted))

  def _empty(self) -> LossHistory:
    return empty_history(self.bins, self.alpha.shape[1])


class SecondMoment(NamedTuple):
  """The last H losses at each of T diffusion steps.

  Steps with larger losses are drawn more often (Nichol & Dhariwal 2021).

  Attributes:
    losses: [T, H] losses, the newest last.
    count: [T] number of losses recorded so far, at most H.
  """

  losses: Float[Array, 'T H']
  count: Int[Array, ' T']

  def add(
    self, index: Int[Array, ' N'], losses: Float[Array, ' N']
  ) -> 'SecondMoment':
    """Records losses [N] at steps `index` [N] in 0 ... T - 1, in order."""

    def one(
      state: 'SecondMoment', item: tuple[Int[Array, ''], Float[Array, '']]
    ):
      i, loss = item
      row = jnp.roll(state.losses[i], -1).at[-1].set(loss)
      most = state.losses.shape[1]
      return SecondMoment(
        state.losses.at[i].set(row),
        state.count.at[i].set(jnp.minimum(state.count[i] + 1, most)),
      ), None

    return jax.lax.scan(one, self, (index, losses))[0]

  def probs(self, uniform: float = 1e-3) -> Float[Array, ' T']:
    """Returns the probabilities of the steps, [T].

    They are proportional to the root of the mean squared loss, mixed with the
    uniform distribution with weight `uniform`. Until every step has H losses,
    they are uniform.
    """
    num_steps, most = self.losses.shape
    root = jnp.sqrt(jnp.square(self.losses).mean(-1))
    even = jnp.full(num_steps, 1 / num_steps)
    some = root.sum() > 0
    share = jnp.where(some, root / jnp.where(some, root.sum(), 1.0), even)
    mixed = (1 - uniform) * share + uniform * even
    return jnp.where((self.count == most).all(), mixed, even)

  def draw(
    self, u: Float[Array, '*shape'], uniform: float = 1e-3
  ) -> tuple[Int[Array, '*shape'], Float[Array, '*shape']]:
    """Draws steps, and importance weights that make the loss unbiased.

    Args:
      u: stratified numbers in (0, 1), any shape.
      uniform: see `probs`.

    Returns:
      Steps in 0 ... T - 1 and weights 1 / (T p), in the shape of u. The mean of
      a loss times its weight is the mean over uniform steps.
    """
    p = self.probs(uniform)
    index = jnp.searchsorted(jnp.cumsum(p), u, side='right')
    index = jnp.minimum(index, len(p) - 1)
    return index, 1 / (len(p) * p[index])


class SmallestTime(NamedTuple):
  """The smallest training time.

  Attributes:
    time: [] in [0, 1].
  """

  time: Float[Array, '']


def nearest_noise(
  schedule: Schedule, table: Float[Array, 'K D']
) -> SmallestTime:
  """Computes the time at which noise reaches the nearest other embedding.

  It is the time with 1 - alpha = v / (1 + v), where v is the mean, over
  embeddings, of the squared distance to the nearest other embedding, per
  dimension (DINOISER, Ye et al. 2023). At smaller times a network learns
  little, because x_t determines the tokens.

  Args:
    schedule: noise schedule.
    table: [K, D] token embeddings.
  """
  half = 0.5 * jnp.square(table).sum(-1)

  def nearest(rows: Float[Array, 'n C']) -> Float[Array, ' n']:
    # The last column has the ids of the tokens, the others their embeddings.
    x, place = rows[:, :-1], rows[:, -1:]
    gap = half[None] + 0.5 * jnp.square(x).sum(-1, keepdims=True) - x @ table.T
    is_itself = jnp.arange(len(table))[None] == place
    return 2 * jnp.where(is_itself, jnp.inf, gap).min(-1)

  places = jnp.arange(len(table), dtype=table.dtype)[:, None]
  squares = by_parts(nearest, jnp.concatenate([table, places], -1), len(table))
  v = jnp.maximum(squares.mean() / table.shape[1], 1e-12)
  return SmallestTime(inverse(schedule, -jnp.log1p(1 / v)))


def empty_moments(num_steps: int, kept: int = 10) -> SecondMoment:
  """Returns a state of T steps without losses, which keeps `kept` per step."""
  return SecondMoment(
    jnp.zeros((num_steps, kept)), jnp.zeros(num_steps, jnp.int32)
  )
