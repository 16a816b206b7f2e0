"""Joint training of embeddings, denoiser and rounding (Li et al. 2022).

Token ids w are embedded, and noise is added to the embeddings:
x_start ~ N(Emb(w), std_0^2), where std_0 is the noise of the first step. Then
x_t is drawn from q_t(. | x_start).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

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
from textdiffusion.schedules.adaptive import SecondMoment, SmallestTime
from textdiffusion.schedules.times import discrete, walk


@dataclasses.dataclass(frozen=True)
class Weights:
  """Weights of the terms of `EndToEnd`.

  The published loss of Diffusion-LM is the default.

  Attributes:
    mse: weight of the squared error of steps after the first.
    first: weight of the squared error of the first step, whose target is the
      embedding itself.
    prior: weight of the squared mean at t = 1.
    rounding: weight of the cross-entropy of the tokens given x_start.
    anchor: weight of the cross-entropy of the tokens given the estimate of x0
      (Difformer, Gao et al. 2024).
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
  """Squared errors of the denoiser and nats of the rounding: [B, L].

  The squared error is the mean over features of the quantity that the head
  predicts: x0, eps or velocity. At the first step it is the error of x0 against
  the embedding without noise. The rounding term keeps embeddings apart, and the
  prior term keeps them small.

  Attributes:
    num_steps: number of diffusion steps, T.
    weights: weights of the terms.
    self_condition: probability that the network takes its own estimate of x0,
      computed from the same x_t in a first call; None for never.
    noisy_source: if True, given tokens are x_start at every t, as in the
      released code of DiffuSeq; if False, they are embeddings.
    absorb: a position is moved to the origin with a probability of `absorb`
      times the standard deviation of the noise (soft absorbing state of
      DiffuSeq v2); 0 for never.
    multi_level: whether each position has its own time, see `times.walk`.
    estimand: whether the mean of the loss bounds -log p(x0).
  """

  num_steps: int
  weights: Weights = Weights()
  self_condition: float | None = None
  noisy_source: bool = False
  absorb: float = 0.0
  multi_level: bool = False
  estimand: Estimand = 'surrogate'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the sum of the weighted terms mse, first, prior and rounding.

    With a weight of anchor, there is also the term anchor.
    """
    model, p = models.student, models.student.process
    t, importance = self.times(model, batch)
    embedded = embedder_of(model).embed(batch.ids)

    def noised(
      key: Key, clean: Float[Array, 'L D'], t: Time
    ) -> tuple[Float[Array, 'L D'], Float[Array, 'L D']]:
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
      # All rows share one coin, so that a step without an estimate takes only
      # one network call.
      coin = jax.random.bernoulli(stream(key, 'coin'), self.self_condition)
      inputs = with_estimate(model, xt, t, coin)
    terms = self.terms(model, batch.ids, start, xt, t, inputs)
    terms = {
      name: getattr(self.weights, name) * importance * term
      for name, term in terms.items()
    }
    return Loss(jnp.stack(list(terms.values())).sum(0), terms)

  def times(
    self, model: Model, batch: Batch
  ) -> tuple[Float[Array, ' B #L'], Float[Array, 'B 1']]:
    """Returns times, [B, 1 or L], and the weights of their losses, [B, 1]."""
    u, state = batch.u[:, None], model.facts.method_state
    if isinstance(state, SecondMoment):
      index, weight = state.draw(u)
      return (index + 1) / self.num_steps, weight
    if self.multi_level:
      t = walk(batch.u, batch.ids.shape[1], self.num_steps)
      return at_rest(t, batch), jnp.ones_like(u)
    if isinstance(state, SmallestTime):
      u = state.time + (1 - state.time) * u
    return discrete(u, self.num_steps)[1], jnp.ones_like(u)

  def absorbed(
    self,
    p: VariancePreserving,
    key: Key,
    rows: Int[Array, ' B'],
    xt: Float[Array, 'B L D'],
    t: Time,
  ) -> Float[Array, 'B L D']:
    """Moves some positions to the origin (DiffuSeq v2).

    Args:
      p: the process.
      key: random key.
      rows: [B] indices in the global batch.
      xt: [B, L, D] noisy embeddings.
      t: times that broadcast against [B, L].

    Returns:
      [B, L, D] noisy embeddings.
    """
    chance = self.absorb * p.marginal(xt, t).std
    draw = lambda key: jax.random.uniform(key, xt.shape[1:2])
    u = jax.vmap(draw)(row_keys(key, rows))
    return jnp.where((u < chance[..., 0])[..., None], 0.0, xt)

  def start(
    self,
    p: VariancePreserving,
    clean: Float[Array, '... L D'],
    noise: Float[Array, '... L D'],
  ) -> Float[Array, '... L D']:
    """Returns x_start, embeddings with the noise of the first step.

    Args:
      p: the process.
      clean: [L, D] embeddings.
      noise: [L, D] standard normal draws.
    """
    return clean + p.marginal(clean, 1 / self.num_steps).std * noise

  def terms(
    self,
    model: Model,
    ids: Int[Array, 'B L'],
    start: Float[Array, 'B L D'],
    xt: Float[Array, 'B L D'],
    t: Time,
    inputs: Float[Array, 'B L inputs'] | None = None,
  ) -> dict[str, Float[Array, 'B L']]:
    """Computes the terms without their weights.

    Args:
      model: the student.
      ids: [B, L] tokens.
      start: [B, L, D] x_start.
      xt: [B, L, D] noisy embeddings.
      t: times that broadcast against [B, L].
      inputs: what the network takes; None for `xt`.

    Returns:
      The terms by name, [B, L] each.
    """
    p, embedder = model.process, embedder_of(model)
    head: FeatureHead = model(xt if inputs is None else inputs, t).head
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
  """Returns the embeddings of a network that takes features."""
  embedder = model.facts.embedder
  assert embedder is not None and embedder.is_input
  return embedder


def at_rest(t: Float[Array, 'B L'], batch: Batch) -> Float[Array, 'B L']:
  """Returns the times with those of given tokens set to 0: [B, L]."""
  return t if batch.is_given is None else jnp.where(batch.is_given, 0.0, t)


def target(
  p: VariancePreserving,
  head: FeatureHead,
  x0: Float[Array, '... L D'],
  xt: Float[Array, '... L D'],
  t: Time,
) -> FeatureHead:
  """Returns the exact head of the same type as the prediction.

  Args:
    p: the process.
    head: the prediction.
    x0: [L, D] clean features.
    xt: [L, D] noisy features.
    t: time.

  Raises:
    TypeError: the head is not of a feature type.
  """
  match head:
    case X0():
      return X0(x0)
    case Eps():
      return to_eps(p, X0(x0), xt, t)
    case Velocity():
      return to_velocity(p, X0(x0), xt, t)
  raise TypeError(f'takes X0, Eps or Velocity heads, not {type(head).__name__}')


def with_estimate(
  model: Model,
  xt: Float[Array, '... D'],
  t: Time,
  use_estimate: Bool[Array, ''],
) -> Float[Array, '... 2*D']:
  """Appends the network's estimate of x0 to x_t, for self-conditioning.

  No gradient flows through the estimate (Chen et al. 2023).

  Args:
    model: the student.
    xt: [..., D] noisy features.
    t: times that broadcast against the leading axes of `xt`.
    use_estimate: [] bool; if False, zeros take the place of the estimate,
      without a network call.

  Returns:
    [..., 2 D] inputs.
  """
  blank = jnp.zeros_like(xt)

  def estimate() -> Float[Array, '... D']:
    head = model(jnp.concatenate([xt, blank], -1), t).head
    x0 = estimate_of(model.process, embedder_of(model), head, xt, t)
    return jax.lax.stop_gradient(x0.value)

  previous_x0 = jax.lax.cond(use_estimate, estimate, lambda: blank)
  return jnp.concatenate([xt, previous_x0], -1)
