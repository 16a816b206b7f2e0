"""Continuous noise with a network that predicts tokens (CDCD, Dieleman et al.
2022).

The mean embedding under p(w | x_t) is E(x0 | x_t), so cross-entropy alone
trains the reverse process. Embeddings need a fixed norm. Otherwise they would
grow until the noise has no effect.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.types import Array, Batch, Head, Key, Posterior, Time
from textdiffusion.model import Model
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.objectives.end_to_end import embedder_of, with_estimate
from textdiffusion.objectives.nelbo import step_bound
from textdiffusion.processes.variance_preserving import estimate_of
from textdiffusion.schedules.times import continuous, discrete


@dataclasses.dataclass(frozen=True)
class ScoreInterpolation:
  """-log p(w | x_t) in nats: [B, L].

  It is not a bound, because all times have the same weight.

  Attributes:
    num_steps: number of noise levels, T; 0 is continuous time.
    self_condition: probability of self-conditioning, see `EndToEnd`.
    estimand: whether the mean of the loss bounds -log p(x0).
  """

  num_steps: int = 0
  self_condition: float | None = None
  estimand: Estimand = 'surrogate'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the loss; its only term is cross_entropy."""
    model, p = models.student, models.student.process
    clean = embedder_of(model).embed(batch.ids)
    u = batch.u[:, None]
    t = discrete(u, self.num_steps)[1] if self.num_steps else continuous(u)
    xt = jax.vmap(p.corrupt)(row_keys(key, batch.rows), clean, t)
    coin = jax.random.bernoulli(stream(key, 'coin'), self.self_condition or 0.0)
    nats = _cross_entropy(self, model, batch.ids, xt, t, coin)
    return Loss(nats, {'cross_entropy': nats})


@dataclasses.dataclass(frozen=True)
class InterpolationBound:
  """-log p(w) <= prior + steps + reconstruction on T steps, in nats: [B, L].

  The chain is w -> x_1/T ... x_1 with x_t ~ N(sqrt(alpha) Emb(w), 1 - alpha).
  In the reverse direction it ends at x_1/T, from which the network predicts the
  tokens by p(w | x_1/T). So each draw takes two network calls.

  Attributes:
    num_steps: number of steps, T.
    self_condition: if not None, the network takes its own estimate of x0 in
      every call.
    estimand: whether the mean of the loss bounds -log p(x0).
  """

  num_steps: int
  self_condition: float | None = None
  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the sum of the terms diffusion, prior and reconstruction."""
    model, p = models.student, models.student.process
    embedder = embedder_of(model)
    clean = embedder.embed(batch.ids)
    # One of the T - 1 steps after the first one is drawn.
    s, t = (
      (1 + time * (self.num_steps - 1)) / self.num_steps
      for time in discrete(batch.u[:, None], self.num_steps - 1)
    )
    keys = row_keys(key, batch.rows)
    noise = jax.vmap(lambda k: jax.random.normal(k, (2, *clean.shape[1:])))(
      keys
    )
    at = lambda time, noise: (q := p.marginal(clean, time)).mean + q.std * noise
    xt, first = at(t, noise[:, 0]), 1 / self.num_steps
    always = jnp.ones((), bool)
    head = _posterior(self, model, xt, t, always)
    estimate = estimate_of(p, embedder, head, xt, t)
    steps = step_bound(p, clean, estimate, xt, s, t).sum(-1)
    start = at(first, noise[:, 1])
    time = jnp.full_like(t, first)
    terms = {
      'diffusion': (self.num_steps - 1) * steps,
      'prior': p.marginal(clean, 1.0).kl(p.prior()).sum(-1),
      'reconstruction': _cross_entropy(
        self, model, batch.ids, start, time, always
      ),
    }
    return Loss(jnp.stack(list(terms.values())).sum(0), terms)


Either = ScoreInterpolation | InterpolationBound


def _posterior(
  objective: Either,
  model: Model,
  xt: Float[Array, 'B L D'],
  t: Time,
  coin: Bool[Array, ''],
) -> Posterior:
  """Returns the head at x_t, with self-conditioning if the objective has it.

  Args:
    objective: gives the option.
    model: the student.
    xt: [B, L, D] noisy embeddings.
    t: time.
    coin: [] bool, whether this call takes an estimate.

  Raises:
    TypeError: the head is not a Posterior.
  """
  inputs = xt
  if objective.self_condition is not None:
    inputs = with_estimate(model, xt, t, coin)
  head: Head = model(inputs, t).head
  if not isinstance(head, Posterior):
    raise TypeError(
      f'{type(objective).__name__} takes Posterior heads, not '
      f'{type(head).__name__}'
    )
  return head


def _cross_entropy(
  objective: Either,
  model: Model,
  ids: Int[Array, 'B L'],
  xt: Float[Array, 'B L D'],
  t: Time,
  coin: Bool[Array, ''],
) -> Float[Array, 'B L']:
  """Returns [B, L] nats of the ids under the head of `_posterior`."""
  head = _posterior(objective, model, xt, t, coin)
  return -Categorical(head.logits).log_prob(ids)
