"""Reverse chains of features: Gaussian noise on embeddings."""

import abc
import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical, Normal
from textdiffusion.core.numerics import by_parts, match_ranks
from textdiffusion.core.types import (
  X0,
  Array,
  Embedder,
  Head,
  Key,
  Posterior,
  Time,
  UserError,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.model import Model
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  estimate_of,
)
from textdiffusion.samplers.base import (
  Canvas,
  Frame,
  Sampler,
  draw_rows,
  split,
)
from textdiffusion.samplers.filters import Filter
from textdiffusion.samplers.grid import STEPS, grid_times, num_steps
from textdiffusion.schedules import times


class LatentChain(NamedTuple):
  """The state of sampling with Gaussian noise on embeddings.

  Attributes:
    x: noisy embeddings.
    estimate: the last estimate of x_0, 0 before the first.
    time: the time at which each token was estimated.
    calls: calls of the network so far.
    canvas: tokens, and which of them are given.
  """

  x: Float[Array, 'B L D']
  estimate: Float[Array, 'B L D']
  time: Float[Array, 'B L']
  calls: Int[Array, '']
  canvas: Canvas


@dataclasses.dataclass(frozen=True)
class Clamp:
  """The embedding of a token in place of an estimate.

  Attributes:
    until: the largest time at which estimates are clamped. 1 is the clamping
      trick of Diffusion-LM (Li et al. 2022).
    token: 'nearest' is the token whose embedding is nearest. 'drawn' draws one
      from the network's distribution, or from the rounding of its estimate:
      SSD-LM's projection (Han et al. 2023).
    filter: of the draws.
  """

  until: float = 1.0
  token: Literal['nearest', 'drawn'] = 'nearest'
  filter: Filter = Filter()

  def __post_init__(self) -> None:
    check_fields(self, until='[0, 1]')
    if self.token == 'nearest' and self.filter != Filter():
      raise UserError(
        f"Clamp(token='nearest', filter={self.filter}): only drawn tokens are "
        "filtered; use token='drawn'"
      )

  def __call__(
    self,
    keys: Key,
    model: Model,
    head: Head,
    x0: Float[Array, 'B L D'],
    t: Time,
  ) -> Float[Array, 'B L D']:
    """Returns the clamped estimate.

    Args:
      keys: [B].
      model: with an embedder.
      head: of the network.
      x0: its estimate.
      t: times of the tokens.
    """
    embedder = embedder_of(model)
    if self.token == 'drawn':
      is_token = isinstance(head, Posterior)
      logits = head.logits if is_token else embedder.logits(x0)
      ids = draw_rows(keys, Categorical(self.filter(logits)))
    elif embedder.table is not None:
      ids = nearest(embedder.table, x0)
    else:  # on the simplex, its nearest corner
      ids = jnp.argmax(embedder.logits(x0), -1)
    is_late = jnp.broadcast_to(t, x0.shape[:-1]) <= self.until
    return jnp.where(is_late[..., None], embedder.embed(ids), x0)


@dataclasses.dataclass(frozen=True)
class LatentSampler(Sampler):
  """From noise to embeddings to tokens; subclasses choose the reverse step.

  The network receives its last estimate too where it was trained so (self-
  conditioning, Chen et al. 2023), clamped.

  Attributes:
    steps: number of intervals of the grid.
    grid: where the times lie.
    temperature: scales all noise.
    clamp: replaces estimates by embeddings; None does not.
    multi_level: whether positions have times of their own, left ones first
      (AR-Diffusion, Wu et al. 2023).
  """

  steps: int = 64
  grid: Literal['cosine', 'uniform'] = 'cosine'
  temperature: float = 1.0
  clamp: Clamp | None = None
  multi_level: bool = False

  def __post_init__(self) -> None:
    check_fields(self, steps=STEPS, temperature='[0, 1e30]')

  @abc.abstractmethod
  def reverse(
    self,
    process: VariancePreserving,
    x0: Float[Array, 'B L D'],
    carry: LatentChain,
    s: Time,
    t: Time,
  ) -> Normal:
    """Returns the law of x_s given x_t and an estimate x0."""

  def check(self, model: Model) -> None:
    if not isinstance(model.process, VariancePreserving):
      raise UserError(
        f'{type(self).__name__}() samples features, and '
        f'{type(model.process).__name__} is noise on tokens: use Ancestral()'
      )
    if self.multi_level and not num_steps(model.process):
      raise UserError(
        f'{type(self).__name__}(multi_level=True): needs a process of T steps; '
        'use multi_level=False'
      )

  def times(self, model: Model, canvas: Canvas) -> Float[Array, 'N ...']:
    total = num_steps(model.process)
    grid = grid_times(self.steps, self.grid, total)
    if not self.multi_level:
      return grid
    # Equal parts of the way of the moving point.
    grid = grid_times(self.steps, self.grid)
    return times.walk(grid, canvas.ids.shape[1], total)

  def init(self, keys: Key, model: Model, canvas: Canvas) -> LatentChain:
    clean = embedder_of(model).embed(canvas.ids)
    noise = jax.vmap(lambda key: jax.random.normal(key, clean.shape[1:]))(keys)
    x = jnp.where(canvas.is_given[..., None], clean, self.temperature * noise)
    time = jnp.ones(x.shape[:-1], x.dtype)
    calls = jnp.zeros((), jnp.int32)
    return LatentChain(x, jnp.zeros_like(x), time, calls, canvas)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: LatentChain,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> LatentChain:
    key_noise, key_token = split(keys)
    inputs = carry.x
    p, embedder = model.process, embedder_of(model)
    if embedder.self_condition:
      inputs = jnp.concatenate([carry.x, carry.estimate], -1)
    head = model(inputs, t).head
    estimate = estimate_of(p, embedder, head, carry.x, t).value
    if self.clamp is not None:
      estimate = self.clamp(key_token, model, head, estimate, t)
    dist = self.reverse(p, estimate, carry, s, t)
    std = jnp.broadcast_to(self.temperature * dist.std, dist.mean.shape)
    x = draw_rows(key_noise, dist._replace(std=std)).astype(carry.x.dtype)
    time = jnp.broadcast_to(t, carry.time.shape).astype(carry.time.dtype)
    return LatentChain(x, estimate, time, carry.calls + 1, carry.canvas)

  def frame(self, model: Model, carry: LatentChain) -> Frame:
    """The most probable tokens of the last estimate; of the start, of x."""
    features = jnp.where(carry.calls == 0, carry.x, carry.estimate)
    dist = Categorical(embedder_of(model).logits(features))
    ids = jnp.argmax(dist.logits, -1)
    log_prob = dist.log_prob(ids).astype(jnp.float32)
    given, is_given = carry.canvas.ids, carry.canvas.is_given
    return Frame(
      jnp.where(is_given, given, ids).astype(jnp.int32),
      jnp.where(is_given, 0.0, log_prob),
    )


@dataclasses.dataclass(frozen=True)
class GaussianAncestral(LatentSampler):
  """The posterior q(x_s | x_t, x0) (Ho et al. 2020).

  Attributes:
    variance: of the posterior, or 'large', of the forward step; see
      `VariancePreserving.bridge`.
  """

  variance: Literal['small', 'large'] = 'small'

  def reverse(
    self,
    process: VariancePreserving,
    x0: Float[Array, 'B L D'],
    carry: LatentChain,
    s: Time,
    t: Time,
  ) -> Normal:
    return process.bridge(X0(x0), carry.x, s, t, variance=self.variance)


@dataclasses.dataclass(frozen=True)
class DDIM(LatentSampler):
  """The steps of Song et al. 2021.

  Attributes:
    eta: 0 is deterministic and 1 ancestral sampling.
  """

  eta: float = 0.0

  def __post_init__(self) -> None:
    super().__post_init__()
    check_fields(self, eta='[0, 1]')

  def reverse(
    self,
    process: VariancePreserving,
    x0: Float[Array, 'B L D'],
    carry: LatentChain,
    s: Time,
    t: Time,
  ) -> Normal:
    return process.bridge(X0(x0), carry.x, s, t, self.eta)


@dataclasses.dataclass(frozen=True)
class DPMSolver(LatentSampler):
  """DPM-Solver++ of second order, multistep (Lu et al. 2022, algorithm 2).

  With lambda the log of signal over noise and h its step, the estimate is taken
  as linear in lambda through this one and the last: x0 + h / (2 h_last) (x0 -
  last). The first step and the last one, h infinite, are of first order, which
  is DDIM; a clean x_t stays.
  """

  def reverse(
    self,
    process: VariancePreserving,
    x0: Float[Array, 'B L D'],
    carry: LatentChain,
    s: Time,
    t: Time,
  ) -> Normal:
    x0, now, then, last = match_ranks(
      x0, *(_half_log_snr(process, time) for time in (s, t, carry.time))
    )
    is_first = (carry.calls == 0) | jnp.isinf(now) | (then <= last)
    ratio = (now - then) / jnp.where(is_first, 1.0, 2 * (then - last))
    bent = x0 + jnp.where(is_first, 0.0, ratio) * (x0 - carry.estimate)
    return process.bridge(X0(bent), carry.x, s, t, eta=0.0)


@dataclasses.dataclass(frozen=True)
class Renoise(LatentSampler):
  """Fresh noise on each estimate, as SSD-LM decodes (Han et al. 2023)."""

  def reverse(
    self,
    process: VariancePreserving,
    x0: Float[Array, 'B L D'],
    carry: LatentChain,
    s: Time,
    t: Time,
  ) -> Normal:
    fresh = process.marginal(x0, s)
    is_clean = (jnp.broadcast_to(t, x0.shape[:-1]) <= 0)[..., None]
    return fresh._replace(mean=jnp.where(is_clean, carry.x, fresh.mean))


def embedder_of(model: Model) -> Embedder:
  """The token embeddings of a model over features."""
  embedder = model.facts.embedder
  assert embedder is not None and embedder.is_input
  return embedder


def _half_log_snr(
  process: VariancePreserving, t: Time
) -> Float[Array, '... 1']:
  """lambda = log(sqrt(alpha) / sqrt(1 - alpha))."""
  level = process.schedule(t)
  return 0.5 * (level.log_alpha - level.log_1m_alpha)


def nearest(
  table: Float[Array, 'K D'], x: Float[Array, '... D']
) -> Int[Array, '...']:
  """Returns the ids of the nearest rows of the table, a part at a time."""
  length = 0.5 * jnp.square(table).sum(-1)
  find = lambda row: jnp.argmax(row @ table.T - length[None], -1)
  return by_parts(find, x, len(table))
