"""Bounds on -log p(x0), per token in nats, for any process and head."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import poisson_kl, pytree, static
from textdiffusion.core.types import (
  Array,
  Batch,
  Cavity,
  Key,
  Model,
  Posterior,
  Process,
  Time,
)
from textdiffusion.processes.bridge import to_log_score
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.schedules.times import continuous, discrete

Bound = Callable[[Any, Array, Any, Array, Array], Array]


def rate_bound(p: RankOne, x0: Array, head: Any, z: Array, t: Time) -> Array:
  """The continuous-time bound at t: [L] nats per unit of t.

  sum_y R_t(y -> z) [r_model - r + r log(r / r_model)], r = q_t(y) / q_t(z):
  a Poisson KL between reverse rates. MDLM, MD4, UDLM, Duo, GIDD and SEDD are
  its cases; needs only `p.rate`, so it holds for any forward rate matrix.
  """
  rate = p.rate(z, t)
  exact = to_log_score(p, p.clean(x0), z, t).value
  model = to_log_score(p, head, z, t).value
  jumps = jnp.where(
    rate > 0, poisson_kl(exact, jnp.where(rate > 0, model, 0)), 0
  )
  return jnp.where(rate > 0, rate * jumps, 0.0).sum(-1)


def masked_bound(p: RankOne, x0: Array, head: Any, z: Array, t: Time) -> Array:
  """`rate_bound` of the absorbing process: weighted cross-entropy on masks.

  -alpha' / (1 - alpha) * -log xhat(x0), MDLM eq. 10; no [L, K] beyond logits.
  On masks posterior and cavity coincide, so either head is taken.
  """
  if not isinstance(head, Cavity | Posterior):
    raise TypeError(
      f'masked_bound takes Cavity or Posterior heads, not {type(head).__name__}'
    )
  is_masked = p.is_mask(z)
  level = p.schedule(t)
  weight = (level.rate * jnp.exp(-level.log_1m_alpha))[..., 0]
  is_mask_state = p.is_mask(jnp.arange(p.num_states))
  logits = jnp.where(is_mask_state, -jnp.inf, head.logits)
  # A mask among the clean tokens (padding, never counted) has no likelihood;
  # on a visible token a posterior may say that it is certain.
  token = jnp.where(p.is_mask(x0), (p.mask_id == 0) * 1, x0)
  safe_x0 = jnp.where(is_masked, token, z)
  chosen = jnp.take_along_axis(logits, safe_x0[..., None], axis=-1)[..., 0]
  nats = jax.nn.logsumexp(logits, axis=-1) - chosen
  return jnp.where(is_masked, weight, 0.0) * nats


def step_bound(
  p: Process, x0: Array, head: Any, xt: Array, s: Time, t: Time
) -> Array:
  """KL(q(x_s | x_t, x0) || p(x_s | x_t)) of one step: [L] or [L, D] nats.

  Summed over a grid with `prior_bound` it is D3PM's and DDPM's exact bound;
  at s = 0 a token process without noise at t = 0 gives the reconstruction
  -log p(x0 | x_t).
  """
  exact: Any = p.bridge(p.clean(x0), xt, s, t)
  return exact.kl(p.bridge(head, xt, s, t))


def prior_bound(p: Process, x0: Array) -> Array:
  """KL(q_1(. | x0) || prior): [L] or [L, D] nats."""
  return p.marginal(x0, 1.0).kl(p.prior())


@pytree
class Nelbo:
  """One draw of t per sequence and the bound there, plus both ends.

  process: a rank-one process. bound: the continuous-time bound to use, an
  exact equal of `rate_bound` or that of another sampler. num_steps: T of the
  finite-step bound; 0 is continuous. The ends, what t = 1 still tells of x0
  and what t = 0 has lost, are 0 for a schedule that goes from all signal to
  none.
  """

  process: Any
  bound: Bound = static(default=rate_bound)
  num_steps: int = static(default=0)
  estimand: Literal['nelbo', 'surrogate'] = static(default='nelbo')

  def __call__(
    self, model: Model, key: Key, batch: Batch
  ) -> tuple[Array, dict[str, Array]]:
    """-> [B, L] nats, and its terms: diffusion, prior, reconstruction."""
    p, x0 = self.process.refresh(model), batch.ids
    u = batch.u[:, None]
    if self.num_steps:
      s, t = discrete(u, self.num_steps)
    else:
      s = t = continuous(u)
    keys = row_keys(key, batch.rows)
    xt = jax.vmap(p.corrupt)(keys, x0, t)
    head = model.denoise(xt, t)
    if self.num_steps:
      diffusion = self.num_steps * step_bound(p, x0, head, xt, s, t)
    else:
      diffusion = self.bound(p, x0, head, xt, t)
    # Of rank-one noise the ends are the same for every token.
    token = jnp.full((), 1 if p.mask_id == 0 else 0)
    prior = jnp.broadcast_to(prior_bound(p, token), x0.shape)
    decoder = jnp.broadcast_to(p.decoder_bound(), x0.shape)
    return diffusion + prior + decoder, {
      'diffusion': diffusion,
      'prior': prior,
      'reconstruction': decoder,
    }
