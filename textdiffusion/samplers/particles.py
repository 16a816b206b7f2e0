"""Particle steering: sequential Monte Carlo around any sampler.

The chain of a sampler proposes, a reward weighs, and particles of low weight
give way to copies of others. With many particles the samples follow
p(x) r(x) / Z, whatever the reward (Wu et al. 2023; Singhal et al. 2025).
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Bool, Float, Int

from textdiffusion.core.numerics import fine_uniform
from textdiffusion.core.types import Array, Key, UserError
from textdiffusion.core.validation import check_fields
from textdiffusion.guidance import guides_steps
from textdiffusion.model import Model
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Canvas, Carry, Frame, Sampler, freeze
from textdiffusion.samplers.correctors import Gibbs
from textdiffusion.samplers.filters import Filter, filtered_posterior
from textdiffusion.samplers.first_hitting import FirstHitting
from textdiffusion.samplers.grid import GridSampler, clean_tokens
from textdiffusion.samplers.ordered import Ordered

# Ids [B, L] -> log of the reward of each row; -inf forbids a row.
Reward = Callable[[Int[Array, 'B L']], Float[Array, ' B']]
# A prediction counts at least as so many nats below the best of its group: a
# particle whose prediction is forbidden may recover.
_RANGE = 20.0


class Swarm(NamedTuple):
  """The state of all particles.

  Attributes:
    x, log_prob, calls: as in `Chain`.
    inner: the carry of the sampler.
    value: log-reward of the last prediction of each particle.
    log_weight: log-weight since the particles were last resampled.
  """

  x: Int[Array, 'B L']
  log_prob: Float[Array, 'B L']
  calls: Int[Array, '']
  inner: Carry
  value: Float[Array, ' B']
  log_weight: Float[Array, ' B']


@dataclasses.dataclass(frozen=True)
class Particles(Sampler):
  """Runs `sampler` on groups of `num` rows, and resamples them by a reward.

  Consecutive `num` rows of a canvas are one group, and its rows at the end are
  equally good, not independent, draws: take one of each. Before the end, the
  reward is the mean over predictions of the clean tokens, drawn from the
  network by one call more in each step. The weights stay exact whatever they
  are, since they are replaced by the next ones and at last by the sample's own.

  Attributes:
    reward: ids [B, L] -> log r(x) [B]; compiled.
    sampler: proposes.
    num: particles of a group.
    threshold: resamples where the effective number of particles falls below
      this share of `num`. At the end it always does.
    predictions: drawn for a particle in each step. 0 does not weigh before the
      end: that is a draw from `num` samples by their rewards, and costs no call
      more.
  """

  reward: Reward
  sampler: Sampler = Ancestral()
  num: int = 16
  threshold: float = 0.5
  predictions: int = 8

  def __post_init__(self) -> None:
    check_fields(
      self, num='[1, inf)', threshold='[0, 1]', predictions='[0, inf)'
    )

  def check(self, model: Model) -> None:
    if not isinstance(
      self.sampler, GridSampler | FirstHitting | Ordered | Gibbs
    ):
      raise UserError(
        f'Particles() cannot steer {type(self.sampler).__name__}(): it takes '
        'samplers of a fixed number of tokens without a cache, such as '
        'Ancestral() or FirstHitting()'
      )
    if self.predictions and guides_steps(model):
      raise UserError(
        'Particles() draws predictions from heads, and '
        f'{type(model).__name__}() guides steps: use predictions=0, or guide '
        'heads'
      )
    self.sampler.check(model)

  def takes_constraints(self, model: Model) -> bool:
    return self.sampler.takes_constraints(model)

  def times(self, model: Model, canvas: Canvas) -> Float[Array, 'N ...']:
    return self.sampler.times(model, canvas)

  def groups(self, canvas: Canvas) -> Canvas:
    """Returns a canvas with `num` rows for each row of another one."""
    ids, is_given = (jnp.repeat(x, self.num, 0) for x in canvas[:2])
    # A number of its own for each particle, from which its keys derive.
    first = jnp.arange(len(canvas.ids)) if canvas.rows is None else canvas.rows
    rows = first[:, None] * self.num + jnp.arange(self.num)[None]
    return Canvas(ids, is_given, rows.reshape(-1))

  def init(self, keys: Key, model: Model, canvas: Canvas) -> Swarm:
    rows = len(canvas.ids)
    if rows % self.num:
      raise UserError(
        f'Particles(num={self.num}): the canvas has {rows} rows; fill in '
        'sampler.groups(canvas)'
      )
    _check_groups(canvas, self.num)
    inner = self.sampler.init(keys, model, canvas)
    none = jnp.zeros(rows, jnp.float32)
    return Swarm(inner.x, inner.log_prob, inner.calls, inner, none, none)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Swarm,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Swarm:
    key_step, key_value, key_choice = jax.vmap(
      lambda key: jax.random.split(key, 3), out_axes=1
    )(keys)
    is_done = self.sampler.is_done(model, carry.inner)
    inner = self.sampler.step(key_step, model, carry.inner, s, t)
    inner = freeze(carry.inner, inner, is_done)
    is_last = self.sampler.is_done(model, inner) | (s <= 0).all(-1)
    is_last = self._grouped(is_last).all(-1)
    value, calls = self._value(key_value, model, inner, s, is_last)
    log_weight = carry.log_weight + value - carry.value
    index, is_resampled = self._choice(key_choice, log_weight, is_last)
    # A group that ended before stays in its order, whatever the others do.
    index = jnp.where(self.is_done(model, carry), jnp.arange(len(s)), index)
    take = lambda x: x[index] if x.ndim and len(x) == len(index) else x
    inner, value = jax.tree.map(take, (inner, value))
    inner = inner._replace(calls=inner.calls + calls)
    log_weight = jnp.where(is_resampled, 0.0, log_weight)
    return Swarm(inner.x, inner.log_prob, inner.calls, inner, value, log_weight)

  def is_done(self, model: Model, carry: Swarm) -> Bool[Array, ' B']:
    # A group that has ended is resampled in the same step.
    is_done = self._grouped(self.sampler.is_done(model, carry.inner)).all(-1)
    return jnp.repeat(is_done, self.num)

  def frame(self, model: Model, carry: Swarm) -> Frame:
    return self.sampler.frame(model, carry.inner)

  def _value(
    self,
    keys: Key,
    model: Model,
    inner: Carry,
    s: Float[Array, 'B L'],
    is_last: Bool[Array, ' G'],
  ) -> tuple[Float[Array, ' B'], Int[Array, ''] | int]:
    """Returns log-rewards, of predictions before the end, and calls made."""
    ids = self.sampler.frame(model, inner).ids
    value = self.reward(ids).astype(jnp.float32)
    is_last = jnp.repeat(is_last, self.num)
    if not self.predictions:
      return jnp.where(is_last, value, 0.0), 0

    def predicted(x: Int[Array, 'B L']) -> tuple[Array, Array]:
      head: Any = model(x, s).head
      dist = filtered_posterior(model.process, head, x, s, Filter()).logits
      is_free = s > 0
      if model.process.is_absorbing:
        is_free &= model.process.is_mask(x)

      def rewarded(index: Int[Array, '']) -> Float[Array, ' B']:
        fresh = jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)
        clean, _ = clean_tokens(fresh, model, dist, dist, x, is_free)
        return self.reward(jnp.where(is_free, clean, x)).astype(jnp.float32)

      # One after another: each draw is as large as the logits.
      values = jax.lax.map(rewarded, jnp.arange(self.predictions))
      total = jax.nn.logsumexp(values, axis=0)
      return total - math.log(self.predictions), jnp.ones((), jnp.int32)

    skipped = lambda x: (value, jnp.zeros((), jnp.int32))
    guess, calls = jax.lax.cond(is_last.all(), skipped, predicted, ids)
    best = self._grouped(guess).max(-1, keepdims=True)
    least = jnp.where(jnp.isfinite(best), best, 0.0) - _RANGE
    guess = jnp.maximum(self._grouped(guess), least).reshape(-1)
    return jnp.where(is_last, value, guess), calls

  def _choice(
    self,
    keys: Key,
    log_weight: Float[Array, ' B'],
    is_last: Bool[Array, ' G'],
  ) -> tuple[Int[Array, ' B'], Bool[Array, ' B']]:
    """Returns the row that each row becomes, and whether it was resampled."""
    weights = jax.nn.softmax(self._grouped(log_weight))
    # A group all of whose particles are forbidden stays as it is.
    weights = jnp.where(jnp.isnan(weights), 1 / self.num, weights)
    effective = 1 / (weights**2).sum(-1)
    resamples = is_last | (effective < self.threshold * self.num)
    index = jax.vmap(systematic)(keys[:: self.num], weights)
    stay = jnp.arange(self.num)[None]
    index = jnp.where(resamples[:, None], index, stay)
    first = jnp.arange(len(index))[:, None] * self.num
    return (first + index).reshape(-1), jnp.repeat(resamples, self.num)

  def _grouped(self, rows: Array) -> Array:
    """[B] -> [G, num]."""
    return rows.reshape(-1, self.num)


def _check_groups(canvas: Canvas, num: int) -> None:
  """Raises UserError where the rows of a group have different given tokens."""
  if isinstance(canvas.ids, Tracer) or isinstance(canvas.is_given, Tracer):
    return
  given = np.asarray(canvas.is_given)
  ids = np.where(given, np.asarray(canvas.ids), -1)
  groups = ids.reshape(-1, num, ids.shape[1])
  if (groups != groups[:, :1]).any():
    raise UserError(
      f'Particles(num={num}): rows of one group have different given tokens; '
      'fill in sampler.groups(canvas)'
    )


def systematic(key: Key, weights: Float[Array, ' n']) -> Int[Array, ' n']:
  """Draws n indices with these probabilities, in random order.

  Each index i occurs floor(n w_i) or ceil(n w_i) times (Kitagawa 1996).

  Args:
    key: random key.
    weights: probabilities.
  """
  key_start, key_order = jax.random.split(key)
  num = len(weights)
  marks = (jnp.arange(num) + fine_uniform(key_start, ())) / num
  ends = jnp.cumsum(weights)
  index = jnp.searchsorted(ends / ends[-1], marks)
  index = jnp.minimum(index, num - 1)
  return jax.random.permutation(key_order, index)
