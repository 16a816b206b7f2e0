"""Embeddings, denoiser and rounding trained together (Li et al. 2022).

Token ids w are embedded and noised once more, x_start ~ N(Emb(w), std_0^2),
std_0 the noise of the first step; x_t is a draw of q_t(. | x_start).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.types import (
  X0,
  Array,
  Batch,
  Embedder,
  Eps,
  FeatureHead,
  Key,
  Time,
  UserError,
  Velocity,
)
from textdiffusion.model import Model
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  estimate_of,
  to_eps,
  to_velocity,
  to_x0,
)
from textdiffusion.schedules.adaptive import LeastNoise, SecondMoment
from textdiffusion.schedules.times import discrete, walk


@dataclasses.dataclass(frozen=True)
class Weights:
  """Of the terms of `EndToEnd`; the published loss has 1 throughout.

  mse: of steps after the first. first: of the first step, whose target is the
  embedding itself. prior: of the squared mean at t = 1. rounding: of the
  cross-entropy of the tokens given x_start. anchor: of the same given the
  estimate of x0 (Difformer, Gao et al. 2024).
  """

  mse: float = 1.0
  first: float = 1.0
  prior: float = 1.0
  rounding: float = 1.0
  anchor: float = 0.0

  def __post_init__(self) -> None:
    for field in dataclasses.fields(self):
      if getattr(self, field.name) < 0:
        raise UserError(
          f'{field.name}={getattr(self, field.name)}: a weight must be at '
          'least 0'
        )


@dataclasses.dataclass(frozen=True)
class EndToEnd:
  """Squared errors, means over features, and the nats of rounding: [B, L].

  The squared error is of what the head says, x0, eps or velocity. At the first
  step it is of x0, against the embedding without noise. rounding keeps
  embeddings apart and prior keeps them small.

  Attributes:
    num_steps: T.
    weights: of the terms.
    self_condition: the chance that the network takes its own estimate, made of
      the same x_t without one; None where it never does.
    noisy_source: given tokens are x_start at every t, as released by DiffuSeq,
      and not embeddings.
    absorb: times the noise's standard deviation, the chance that a position is
      at the origin (DiffuSeq v2's soft absorbing state); 0 for never.
    multi_level: each position has a time of its own, see `times.walk`.
  """

  num_steps: int
  weights: Weights = Weights()
  self_condition: float | None = None
  noisy_source: bool = False
  absorb: float = 0.0
  multi_level: bool = False
  estimand: Estimand = 'surrogate'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the weighted terms mse, first, prior, rounding, and their sum."""
    model, p = models.student, models.student.process
    t, importance = self.times(model, batch)
    embedded = embedder_of(model).embed(batch.ids)

    def noised(key: Key, clean: Array, t: Time) -> tuple[Array, Array]:
      key_start, key_noise = jax.random.split(key)
      noise = jax.random.normal(key_start, clean.shape)
      start = self.start(p, clean, noise)
      return start, p.corrupt(key_noise, start, t)

    keys = row_keys(key, batch.rows)
    start, xt = jax.vmap(noised)(keys, embedded, t)
    if self.absorb:
      xt = self.absorbed(p, stream(key, 'absorb'), batch.rows, xt, t)
    if self.noisy_source and batch.is_given is not None:
      xt = jnp.where(batch.is_given[..., None], start, xt)
    inputs = xt
    if self.self_condition is not None:
      # One coin for all rows: without an estimate a step costs one call.
      coin = jax.random.bernoulli(stream(key, 'coin'), self.self_condition)
      inputs = with_estimate(model, xt, t, coin)
    terms = self.terms(model, batch.ids, start, xt, t, inputs)
    terms = {
      name: getattr(self.weights, name) * importance * term
      for name, term in terms.items()
    }
    return Loss(jnp.stack(list(terms.values())).sum(0), terms)

  def times(self, model: Model, batch: Batch) -> tuple[Array, Array]:
    """t, [B, 1 or L], and the weights of its losses, [B, 1]."""
    u, state = batch.u[:, None], model.facts.method_state
    if isinstance(state, SecondMoment):
      index, weight = state.draw(u)
      return (index + 1) / self.num_steps, weight
    if self.multi_level:
      t = walk(batch.u, batch.ids.shape[1], self.num_steps)
      return at_rest(t, batch), jnp.ones_like(u)
    if isinstance(state, LeastNoise):
      u = state.time + (1 - state.time) * u
    return discrete(u, self.num_steps)[1], jnp.ones_like(u)

  def absorbed(
    self,
    p: VariancePreserving,
    key: Key,
    rows: Array,
    xt: Array,
    t: Time,
  ) -> Array:
    """[B, L, D] with some positions at the origin."""
    chance = self.absorb * p.marginal(xt, t).std
    draw = lambda key: jax.random.uniform(key, xt.shape[1:2])
    u = jax.vmap(draw)(row_keys(key, rows))
    return jnp.where((u < chance[..., 0])[..., None], 0.0, xt)

  def start(self, p: VariancePreserving, clean: Array, noise: Array) -> Array:
    """Embeddings, standard normal [L, D] -> x_start."""
    return clean + p.marginal(clean, 1 / self.num_steps).std * noise

  def terms(
    self,
    model: Model,
    ids: Array,
    start: Array,
    xt: Array,
    t: Time,
    inputs: Array | None = None,
  ) -> dict[str, Array]:
    """Each [B, L], unweighted. inputs: of the network, x_t if None."""
    p, embedder = model.process, embedder_of(model)
    head: Any = model(xt if inputs is None else inputs, t).head
    squares = jnp.square(head.value - target(p, head, start, xt, t).value)
    x0 = to_x0(p, head, xt, t).value
    errors = jnp.square(x0 - embedder.embed(ids)).mean(-1)
    is_first = jnp.broadcast_to(t * self.num_steps < 1.5, ids.shape)
    anchor = {}
    if self.weights.anchor:
      anchor = {'anchor': -Categorical(embedder.logits(x0)).log_prob(ids)}
    return {
      **anchor,
      'mse': jnp.where(is_first, 0.0, squares.mean(-1)),
      'first': jnp.where(is_first, errors, 0.0),
      'prior': jnp.square(p.marginal(start, 1.0).mean).mean(-1),
      'rounding': -Categorical(embedder.logits(start)).log_prob(ids),
    }


def embedder_of(model: Model) -> Embedder:
  """The embeddings of a network over features."""
  embedder = model.facts.embedder
  assert embedder is not None and embedder.is_input
  return embedder


def at_rest(t: Array, batch: Batch) -> Array:
  """[B, L] times of each position, 0 of given ones."""
  return t if batch.is_given is None else jnp.where(batch.is_given, 0.0, t)


def target(
  p: VariancePreserving, head: FeatureHead, x0: Array, xt: Array, t: Time
) -> FeatureHead:
  """The head of the same kind that x0 is the target of: [L, D]."""
  match head:
    case X0():
      return X0(x0)
    case Eps():
      return to_eps(p, X0(x0), xt, t)
    case Velocity():
      return to_velocity(p, X0(x0), xt, t)
  raise TypeError(f'takes X0, Eps or Velocity heads, not {type(head).__name__}')


def with_estimate(model: Model, xt: Array, t: Time, is_shown: Array) -> Array:
  """x_t and the network's estimate of x0 from it, or zeros: [..., 2 D].

  No gradient goes through the estimate (Chen et al. 2023).
  """
  blank = jnp.zeros_like(xt)

  def estimate() -> Array:
    head = model(jnp.concatenate([xt, blank], -1), t).head
    x0 = estimate_of(model.process, embedder_of(model), head, xt, t)
    return jax.lax.stop_gradient(x0.value)

  previous_x0 = jax.lax.cond(is_shown, estimate, lambda: blank)
  return jnp.concatenate([xt, previous_x0], -1)
