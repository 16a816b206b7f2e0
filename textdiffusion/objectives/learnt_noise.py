"""The bound of masking with one rate per token, and the gradient of the rates.

GenMD4 (Shi et al. 2024, section 6) learns the schedule together with the
network. The draws z are discrete and depend on the rates, so the gradient has a
part that differentiating the loss does not give (REINFORCE, Williams 1992). Of
two draws, each is the baseline of the other (Kool et al. 2019).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import match_ranks
from textdiffusion.core.types import (
  Array,
  Batch,
  Cavity,
  Head,
  Key,
  Posterior,
  Time,
)
from textdiffusion.model import Model, token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.processes.bridge import without_mask
from textdiffusion.processes.vector import VectorAbsorbing
from textdiffusion.schedules.times import continuous


def vector_bound(
  p: VectorAbsorbing,
  x0: Int[Array, '... L'],
  head: Head,
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes `rate_bound` of `VectorAbsorbing` noise at time t.

  A mask is revealed as x at the rate h_x, and by the model as v at the rate
  h_v mu_v, where h = -alpha' / (1 - alpha) and mu is the posterior. The Poisson
  KL between these rates is -h_x log mu_x + sum_v (h_v - h_x) mu_v. With equal
  rates it is `masked_bound`.

  Args:
    p: the process.
    x0: [L] clean tokens.
    head: `Cavity` or `Posterior` at x_t.
    z: [L] noisy tokens.
    t: time.

  Returns:
    [L] nats per unit of t.

  Raises:
    TypeError: the head is of another type.
  """
  if not isinstance(head, Cavity | Posterior):
    raise TypeError(
      f'vector_bound takes Cavity or Posterior heads, not {type(head).__name__}'
    )
  x0, z, t = match_ranks(x0, z, t)
  logits = head.logits
  if isinstance(head, Cavity):
    logits = logits + p.schedule(t).log_1m_alpha
  is_masked = p.is_mask(z)
  # At visible tokens a head may have logits of -inf. They have no loss, and
  # zeros there keep the gradient finite.
  logits = jnp.where(is_masked[..., None], logits, 0.0)
  logits = without_mask(p.mask_id, logits)
  # A mask among the clean tokens is padding: it has no likelihood and is never
  # counted, so any token may replace it.
  safe_x0 = jnp.where(is_masked & ~p.is_mask(x0), x0, (p.mask_id == 0) * 1)
  rate = p.schedule.reveal_rate(t, safe_x0)
  log_mu = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_mu, safe_x0[..., None], axis=-1)[..., 0]
  excess = p.schedule.reveal_rate(t) - rate[..., None]
  nats = (jnp.exp(log_mu) * excess).sum(-1) - rate * chosen
  return jnp.where(is_masked, nats, 0.0)


@dataclasses.dataclass(frozen=True)
class LearntNoise:
  """The bound of `VectorAbsorbing` noise at one random time in [t1, 1] per row.

  Terms for both ends of time are added.

  Attributes:
    t1: time below which the closed form of the reconstruction is used. 0 is
      exact, but then the weights power / t have infinite variance for powers up
      to 1.
    draws: number of draws of z at the time. Two draws give an unbiased gradient
      of the rates. The loss is the mean over the draws.
    estimand: whether the mean of the loss bounds -log p(x0).
  """

  t1: float = 1e-3
  draws: int = 2
  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the sum of the terms diffusion, prior and reconstruction."""
    model, p = models.student, models.student.process
    t = self.t1 + (1 - self.t1) * continuous(batch.u[:, None])
    corrupt_rows = lambda key: jax.vmap(p.corrupt)(
      row_keys(key, batch.rows), batch.ids, t
    )
    draws = jax.vmap(corrupt_rows)(jax.random.split(key, self.draws))
    diffusion = (1 - self.t1) * paired(p, model, batch, t, draws)
    prior = p.prior_nats(batch.ids)
    decoder = p.decoder_nats(batch.ids, jnp.asarray(self.t1))
    terms = {'diffusion': diffusion, 'prior': prior, 'reconstruction': decoder}
    return Loss(diffusion + prior + decoder, terms)


def paired(
  p: VectorAbsorbing,
  model: Model,
  batch: Batch,
  t: Float[Array, 'B 1'],
  draws: Int[Array, 'n B L'],
) -> Float[Array, 'B L']:
  """Computes the mean `vector_bound` over one or two draws of z.

  With two draws, the gradient of a row's sum is an unbiased gradient of its
  expectation over z. To the gradient of the loss it adds (loss_1 - loss_2) / 2
  times the gradient of log q_t(z_1 | x) - log q_t(z_2 | x), by a term whose
  value is 0.

  Args:
    p: the process.
    model: the student. Each draw takes one network call.
    batch: rows of data.
    t: [B, 1] times.
    draws: [n, B, L] noisy tokens, n = 1 or 2.

  Returns:
    [B, L] nats per unit of t.
  """
  loss = lambda head, x0, z, t: vector_bound(p, x0, head, z, t)
  bound = lambda z: token_losses(model, loss, z, t, batch.ids, z, t)
  nats = jax.lax.map(bound, draws)
  if len(nats) == 1:
    return nats[0]
  first, second = nats
  difference = jnp.where(batch.is_counted, first - second, 0.0)
  difference = difference.sum(-1, keepdims=True)
  log_q = p.log_q(draws[0], batch.ids, t) - p.log_q(draws[1], batch.ids, t)
  score = 0.5 * jax.lax.stop_gradient(difference) * log_q
  return 0.5 * (first + second) + (score - jax.lax.stop_gradient(score))
