"""The continuous-time bound of diffusion on embeddings.

VDM, Kingma et al. 2021; Plaid, Gulrajani & Hashimoto 2023.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.types import Array, Batch, Key, Posterior
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.objectives.end_to_end import embedder_of, with_estimate
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  estimate_of,
)
from textdiffusion.schedules.learnt import LearntGamma, variance_loss
from textdiffusion.schedules.times import continuous


@dataclasses.dataclass(frozen=True)
class ContinuousBound:
  """-log p(w) <= reconstruction + prior + diffusion, in nats: [B, L].

  The diffusion term at t is -SNR'(t) / 2 |x - xhat|^2. The network itself
  predicts the tokens from x_0 in the reconstruction term, so each draw takes
  two network calls. In a learnt schedule, the ends are trained to minimise the
  bound, and the shape between them to minimise its variance.

  Attributes:
    self_condition: probability of self-conditioning, see `EndToEnd`.
    always_shown: if True (evaluation), the network takes its own estimate in
      every call.
    estimand: whether the mean of the loss bounds -log p(x0).
  """

  self_condition: float | None = None
  always_shown: bool = False
  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the sum of the terms diffusion, prior and reconstruction.

    With a learnt schedule, the nats also contain a term of value 0, whose
    gradient is that of `variance_loss`.
    """
    model, p = models.student, models.student.process
    embedder, noise = embedder_of(model), p.schedule
    if isinstance(noise, LearntGamma):
      # The mean of the loss does not depend on the shape of the schedule, so a
      # gradient from here would only be noise.
      inside = jax.lax.stop_gradient(noise.inside)
      p = VariancePreserving(LearntGamma(noise.ends, inside))
    clean, t = embedder.embed(batch.ids), continuous(batch.u[:, None])
    drawn = jax.vmap(lambda k: jax.random.normal(k, (2, *clean.shape[1:])))(
      row_keys(key, batch.rows)
    )
    chance = 1.0 if self.always_shown else self.self_condition or 0.0
    coin = jax.random.bernoulli(stream(key, 'coin'), chance)

    def predict(
      time: Float[Array, 'B 1'], noise: Float[Array, 'B L D']
    ) -> tuple[Posterior, Float[Array, 'B L D']]:
      q = p.marginal(clean, time)
      xt = q.mean + q.std * noise
      inputs = xt
      if self.self_condition is not None:
        inputs = with_estimate(model, xt, time, coin)
      head = model(inputs, time).head
      return head, estimate_of(p, embedder, head, xt, time).value

    _, estimate = predict(t, drawn[:, 0])
    head, _ = predict(jnp.zeros_like(t), drawn[:, 1])
    level = p.schedule(t)
    # -SNR' = -alpha' / (1 - alpha)^2.
    weight = (0.5 * level.rate * jnp.exp(-2 * level.log_1m_alpha))[..., 0]
    diffusion = weight * jnp.square(clean - estimate).sum(-1)
    terms = {
      'diffusion': diffusion,
      'prior': p.marginal(clean, 1.0).kl(p.prior()).sum(-1),
      'reconstruction': -Categorical(head.logits).log_prob(batch.ids),
    }
    nats = jnp.stack(list(terms.values())).sum(0)
    if isinstance(noise, LearntGamma):
      count = jnp.maximum(batch.is_counted.sum(-1), 1)
      mean = jnp.where(batch.is_counted, diffusion, 0.0).sum(-1) / count
      nats += variance_loss(noise, t[:, 0], mean)[:, None]
    return Loss(nats, terms)
