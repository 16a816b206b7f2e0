"""The bound of masking at each token's own rate, and the gradient of the rates.

GenMD4 (Shi et al. 2024, section 6): the schedule is learnt with the network.
Its draws z are discrete, so the gradient of an expectation over them has a
part that no differentiation of the loss gives (Williams 1992); two draws are
each other's baseline (Kool et al. 2019).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import (
  Array,
  Batch,
  Cavity,
  Key,
  Posterior,
  Time,
)
from textdiffusion.model import Model, token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.processes.vector import VectorAbsorbing
from textdiffusion.schedules.times import continuous


def vector_bound(
  p: VectorAbsorbing, x0: Array, head: Any, z: Array, t: Time
) -> Array:
  """`rate_bound` of `VectorAbsorbing`, [L] nats per unit of t.

  The Poisson KL between the rates h_x at x and h_v mu_v at v of a mask's
  reveal, h = -alpha' / (1 - alpha) and mu the posterior:
  -h_x log mu_x + sum_v (h_v - h_x) mu_v. Equal rates leave `masked_bound`.
  """
  if not isinstance(head, Cavity | Posterior):
    raise TypeError(
      f'vector_bound takes Cavity or Posterior heads, not {type(head).__name__}'
    )
  logits = head.logits
  if isinstance(head, Cavity):
    logits = logits + p.schedule(t).log_1m_alpha
  is_masked = p.is_mask(z)
  is_mask_state = p.is_mask(jnp.arange(p.num_states))
  # Of visible tokens, which add nothing, a head may be certain: -inf of others.
  logits = jnp.where(is_masked[..., None], logits, 0.0)
  logits = jnp.where(is_mask_state, -jnp.inf, logits)
  # A mask among the clean tokens (padding, never counted) has no likelihood.
  safe_x0 = jnp.where(is_masked & ~p.is_mask(x0), x0, (p.mask_id == 0) * 1)
  rate = p.schedule.reveal_rate(t, safe_x0)
  log_mu = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(log_mu, safe_x0[..., None], axis=-1)[..., 0]
  excess = p.schedule.reveal_rate(t) - rate[..., None]
  nats = (jnp.exp(log_mu) * excess).sum(-1) - rate * chosen
  return jnp.where(is_masked, nats, 0.0)


@dataclasses.dataclass(frozen=True)
class LearntNoise:
  """One draw of t per sequence in [t1, 1], the bound there, and both ends.

  Of `VectorAbsorbing` noise. t1: where the closed form of the reconstruction
  takes over; 0 is exact, but the weights power / t then have
  no finite variance for a power of at most 1. draws: of z at that t. Two give
  the rates their gradient; the value is the mean bound of the draws.
  """

  t1: float = 1e-3
  draws: int = 2
  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the terms diffusion, prior and reconstruction, and their sum."""
    model, p = models.student, models.student.process
    t = self.t1 + (1 - self.t1) * continuous(batch.u[:, None])
    of_rows = lambda key: jax.vmap(p.corrupt)(
      row_keys(key, batch.rows), batch.ids, t
    )
    draws = jax.vmap(of_rows)(jax.random.split(key, self.draws))
    diffusion = (1 - self.t1) * paired(p, model, batch, t, draws)
    prior = p.prior_nats(batch.ids)
    decoder = p.decoder_nats(batch.ids, jnp.asarray(self.t1))
    terms = {'diffusion': diffusion, 'prior': prior, 'reconstruction': decoder}
    return Loss(diffusion + prior + decoder, terms)


def paired(
  p: VectorAbsorbing,
  model: Model,
  batch: Batch,
  t: Array,
  draws: Array,
) -> Array:
  """Mean `vector_bound` of one or two draws z at t, [n, B, L] -> [B, L] nats
  per unit of t; one call of the network a draw.

  With two, the gradient of the row's sum is an unbiased one of its expectation
  over z: to the differential of the loss it adds (loss_1 - loss_2) / 2 times
  that of log q_t(z_1 | x) - log q_t(z_2 | x), in a term whose value is 0.
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
