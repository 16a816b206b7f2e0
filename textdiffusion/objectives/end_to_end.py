"""Embeddings, denoiser and rounding trained together (Li et al. 2022).

Token ids w are embedded and noised once more, x_start ~ N(Emb(w), std_0^2),
std_0 the noise of the first step; x_t is a draw of q_t(. | x_start).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import (
  X0,
  Array,
  Batch,
  Eps,
  FeatureHead,
  Key,
  Model,
  Time,
  UserError,
  Velocity,
)
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


@pytree
class EndToEnd:
  """Squared errors, means over features, and the nats of rounding: [B, L].

  The squared error is of what the head says, x0, eps or velocity. At the first
  step it is of x0, against the embedding without noise. rounding keeps
  embeddings apart and prior keeps them small.

  self_condition: the chance that the network is shown its own estimate, made
  of the same x_t without one; None where it never sees any. noisy_source: given
  tokens are x_start at every t, as released by DiffuSeq, and not embeddings.
  absorb: times the noise's standard deviation, the chance that a position is
  shown at the origin (DiffuSeq v2's soft absorbing state); 0 for never.
  multi_level: each position has a time of its own, see `times.multi_level`.
  """

  process: VariancePreserving
  num_steps: int = static()
  weights: Weights = static(default=Weights())
  self_condition: float | None = static(default=None)
  noisy_source: bool = static(default=False)
  absorb: float = static(default=0.0)
  multi_level: bool = static(default=False)
  estimand: Literal['nelbo', 'surrogate'] = static(default='surrogate')

  def __call__(
    self, model: Model, key: Key, batch: Batch
  ) -> tuple[Array, dict[str, Array]]:
    """-> [B, L] loss and its weighted terms: mse, first, prior, rounding."""
    assert model.embed is not None
    t, importance = self.times(model, batch)
    embedded = model.embed(batch.ids)
    now = dataclasses.replace(self, process=self.process.refresh(model))

    def noised(key: Key, clean: Array, t: Time) -> tuple[Array, Array]:
      key_start, key_noise = jax.random.split(key)
      start = now.start(clean, jax.random.normal(key_start, clean.shape))
      return start, now.process.corrupt(key_noise, start, t)

    keys = row_keys(key, batch.rows)
    start, xt = jax.vmap(noised)(keys, embedded, t)
    if self.absorb:
      xt = now.absorbed(stream(key, 'absorb'), batch.rows, xt, t)
    if self.noisy_source and batch.is_given is not None:
      xt = jnp.where(batch.is_given[..., None], start, xt)
    seen = xt
    if self.self_condition is not None:
      # One coin for all rows: without an estimate a step costs one call.
      coin = jax.random.bernoulli(stream(key, 'coin'), self.self_condition)
      seen = with_estimate(now.process, model, xt, t, coin)
    terms = now.terms(model, batch.ids, start, xt, t, seen)
    terms = {
      name: getattr(self.weights, name) * importance * term
      for name, term in terms.items()
    }
    return jnp.stack(list(terms.values())).sum(0), terms

  def times(self, model: Model, batch: Batch) -> tuple[Array, Array]:
    """t, [B, 1 or L], and the weights of its losses, [B, 1]."""
    u, seen = batch.u[:, None], model.method_state
    if isinstance(seen, SecondMoment):
      index, weight = seen.draw(u)
      return (index + 1) / self.num_steps, weight
    if self.multi_level:
      t = walk(batch.u, batch.ids.shape[1], self.num_steps)
      return at_rest(t, batch), jnp.ones_like(u)
    if isinstance(seen, LeastNoise):
      u = seen.time + (1 - seen.time) * u
    return discrete(u, self.num_steps)[1], jnp.ones_like(u)

  def absorbed(self, key: Key, rows: Array, xt: Array, t: Time) -> Array:
    """[B, L, D] with some positions at the origin."""
    chance = self.absorb * self.process.marginal(xt, t).std
    draw = lambda key: jax.random.uniform(key, xt.shape[1:2])
    u = jax.vmap(draw)(row_keys(key, rows))
    return jnp.where((u < chance[..., 0])[..., None], 0.0, xt)

  def start(self, clean: Array, noise: Array) -> Array:
    """Embeddings, standard normal [L, D] -> x_start."""
    return clean + self.process.marginal(clean, 1 / self.num_steps).std * noise

  def terms(
    self,
    model: Model,
    ids: Array,
    start: Array,
    xt: Array,
    t: Time,
    seen: Array | None = None,
  ) -> dict[str, Array]:
    """Each [B, L], unweighted. seen: what the network is shown, x_t if None."""
    assert model.embed is not None and model.round is not None
    p = self.process
    head: Any = model.denoise(xt if seen is None else seen, t)
    says = jnp.square(head.value - target(p, head, start, xt, t).value)
    x0 = to_x0(p, head, xt, t).value
    errors = jnp.square(x0 - model.embed(ids)).mean(-1)
    is_first = jnp.broadcast_to(t * self.num_steps < 1.5, ids.shape)
    anchor = {}
    if self.weights.anchor:
      anchor = {'anchor': -Categorical(model.round(x0)).log_prob(ids)}
    return {
      **anchor,
      'mse': jnp.where(is_first, 0.0, says.mean(-1)),
      'first': jnp.where(is_first, errors, 0.0),
      'prior': jnp.square(p.marginal(start, 1.0).mean).mean(-1),
      'rounding': -Categorical(model.round(start)).log_prob(ids),
    }


def at_rest(t: Array, batch: Batch) -> Array:
  """[B, L] times of each position, 0 of given ones."""
  return t if batch.is_given is None else jnp.where(batch.is_given, 0.0, t)


def target(
  p: VariancePreserving, head: FeatureHead, x0: Array, xt: Array, t: Time
) -> FeatureHead:
  """What a head of this kind should say of x0: [L, D]."""
  match head:
    case X0():
      return X0(x0)
    case Eps():
      return to_eps(p, X0(x0), xt, t)
    case Velocity():
      return to_velocity(p, X0(x0), xt, t)
  raise TypeError(f'takes X0, Eps or Velocity heads, not {type(head).__name__}')


def with_estimate(
  p: VariancePreserving, model: Model, xt: Array, t: Time, is_shown: Array
) -> Array:
  """x_t and the network's estimate of x0 from it, or zeros: [..., 2 D].

  No gradient goes through the estimate (Chen et al. 2023).
  """
  blank = jnp.zeros_like(xt)

  def estimate() -> Array:
    head = model.denoise(jnp.concatenate([xt, blank], -1), t)
    return jax.lax.stop_gradient(estimate_of(p, model, head, xt, t).value)

  said = jax.lax.cond(is_shown, estimate, lambda: blank)
  return jnp.concatenate([xt, said], -1)
