"""Bounds on -log p(x0), per token in nats, for any process and head."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import (
  exp_gap,
  log_add,
  log_gap,
  one_minus_exp,
  poisson_kl,
)
from textdiffusion.core.types import (
  Array,
  Batch,
  Cavity,
  Key,
  Posterior,
  Process,
  Time,
)
from textdiffusion.model import token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.processes.bridge import to_cavity, to_log_score
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.schedules.noise import log_transition
from textdiffusion.schedules.times import continuous, discrete

Bound = Callable[[Any, Array, Any, Array, Array], Array]
# e^60 of signal to noise, or of noise to signal, is all even in float64.
_MOST = 60.0


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


def rank_one_bound(
  p: RankOne, x0: Array, head: Any, z: Array, t: Time
) -> Array:
  """`rate_bound` of any rank-one process, at about the cost of a softmax.

  R_t(z) / q_t(z | x) [KL(q_t(. | x) || q_t(. | xhat)) + rho - log rho - 1],
  rho = q_t(z | x) / q_t(z | xhat): von Rütte et al. 2025, of which the
  losses of UDLM, Duo, XDLM and MDLM are cases. Of a `Cavity` it keeps
  the logits alone for the backward pass; other heads are converted first.
  """
  weight = bound_weight(p, x0, z, t)
  nats = rank_one_divergence(p, x0, head, z, t)
  return jnp.where(weight > 0, weight * jnp.where(weight > 0, nats, 0.0), 0.0)


def bound_weight(p: RankOne, x0: Array, z: Array, t: Time) -> Array:
  """alpha_t R_t(z) / q_t(z | x): [L], 0 where z cannot come of x."""
  flow = p.flow(z, t)[..., 0]
  log_q = p.log_noise(z, t)[..., 0]
  signal = p.schedule(t).log_alpha[..., 0]
  log_q = jnp.where(z == x0, log_add(signal, log_q), log_q)
  some = (flow > 0) & (log_q > -jnp.inf)
  return jnp.where(some, flow * jnp.exp(-jnp.where(some, log_q, 0.0)), 0.0)


def rank_one_divergence(
  p: RankOne, x0: Array, head: Any, z: Array, t: Time
) -> Array:
  """[KL(q_t(. | x) || q_t(. | xhat)) + rho - log rho - 1] / alpha_t: [L] nats.

  With b the noise on one token, r = alpha / b and u_y = r xhat_y,

    KL / b = (1 + r) g(d) + sum over tokens y != x of [u_y - log(1 + u_y)],

  g(d) = exp(d) - 1 - d, d = log q_t(x | xhat) / q_t(x | x); the mask's terms
  are equal and cancel. rho - log rho - 1 is g(log rho). No term is negative and
  each has a small relative error, so none cancels where signal is rare and all
  are O(alpha^2). Divided by alpha the whole is finite at both ends: where no
  noise is on the tokens it is -log xhat(x), MDLM.
  """
  logits = to_cavity(p, head, z, t).logits
  kl, log_rho, _, _ = _marginals(p, x0, logits, z, t)
  if p.is_absorbing:  # rho is 1, or the weight is 0
    return kl
  log_alpha = jnp.maximum(p.schedule(t).log_alpha[..., 0], -_MOST)
  return kl + exp_gap(log_rho) * jnp.exp(-log_alpha)


class Step(NamedTuple):
  """Of one step, [L] nats each: `step_bound`, and the cross-entropy of x0 under
  the posterior and under the cavity."""

  kl: Array
  posterior: Array
  cavity: Array


def rank_one_step(
  p: RankOne, x0: Array, head: Any, xt: Array, s: Time, t: Time
) -> Step:
  """`step_bound` of a rank-one process at about the cost of a softmax.

  z = xt comes of the noise between s and t with chance a, and with 1 - a it
  is x_s, given x0. With KL_s the divergence of the marginals at s, and
  e^l = q_s(z | xhat) / q_s(z | x0),

    KL = a KL_s + log(a + (1 - a) e^l) - (1 - a) l,

  none of which is negative. The logarithm is log q_t(z | xhat) / q_t(z | x0),
  and that less log xhat(x0) the cross-entropy of the posterior.
  """
  logits = to_cavity(p, head, xt, t).logits
  kl, log_rho, log_x, log_z = _marginals(p, x0, logits, xt, s)
  now, then = p.schedule(s), p.schedule(t)
  signal = jnp.maximum(now.log_alpha[..., 0], -_MOST)
  same = jnp.where(xt == x0, 0.0, -jnp.inf)
  noise_s, noise_t = (p.log_noise(xt, time)[..., 0] for time in (s, t))
  total = log_add(then.log_alpha[..., 0] + same, noise_t)
  is_possible = total > -jnp.inf
  total = jnp.where(is_possible, total, 0.0)
  fresh = p.noise_between(xt[..., None], s, t)[..., 0] * jnp.exp(-total)
  keep = log_transition(now, then)[..., 0] - total
  kept = jnp.exp(keep + log_add(signal + same, noise_s))
  # e^l is infinite at s = 0 where (1 - a) is 0: their product is not.
  product = keep + log_add(signal + log_z, noise_s)
  gap = _jensen_gap(fresh, kept, -log_rho, product)
  nats = jnp.where(fresh > 0, fresh * jnp.exp(signal) * kl, 0.0) + gap
  gained = gap - jnp.where(kept > 0, kept * log_rho, 0.0)
  clean = lambda value: jnp.where(is_possible, value, 0.0)
  return Step(clean(nats), clean(gained - log_x), -log_x)


def _jensen_gap(a: Array, b: Array, x: Array, log_bx: Array) -> Array:
  """log(a + b e^x) - b x >= 0 of a + b = 1: [L], to a relative error.

  log_bx: log(b e^x), for b = 0 and infinite e^x.
  """
  # In terms of the smaller of the two; e^x is factored out where that is a.
  is_a = a < b
  few, turned = jnp.where(is_a, a, b), jnp.where(is_a, -x, x)
  is_near = jnp.abs(turned) < 1
  small = jnp.where(is_near, turned, 0.0)
  near = few * exp_gap(small) - log_gap(few * jnp.expm1(small))
  of_few = jnp.where(is_a, jnp.log(a) - x, log_bx)
  product = jnp.where(few > 0, few * turned, 0.0)
  far = log_add(jnp.log1p(-few), of_few) - product
  return jnp.where(is_near, near, far)


def _marginals(
  p: RankOne, x0: Array, logits: Array, z: Array, t: Time
) -> tuple[Array, Array, Array, Array]:
  """-> KL(q_t(. | x0) || q_t(. | xhat)) / alpha_t, log of rho =
  q_t(z | x0) / q_t(z | xhat), log xhat(x0) and log xhat(z): each [L]."""
  token = jnp.full((), 1 if p.mask_id == 0 else 0)
  x0 = jnp.where(p.is_mask(x0), token, x0)  # padding, never counted
  log_alpha = jnp.maximum(p.schedule(t).log_alpha[..., 0], -_MOST)
  log_r = log_alpha - p.log_noise(token, t)[..., 0]
  shape = jnp.broadcast_shapes(x0.shape, z.shape, log_r.shape)
  x0, z = jnp.broadcast_to(x0, shape), jnp.broadcast_to(z, shape)
  log_r = jnp.broadcast_to(log_r, shape).astype(logits.dtype)
  is_clean, bounded = log_r > _MOST, jnp.minimum(log_r, _MOST)
  log_x, log_z, spread = _token_terms(p.mask_id, logits, x0, z, bounded)
  if p.is_absorbing:
    return -log_x, jnp.where(z == x0, -log_x, 0.0), log_x, log_z

  # d = log((xhat_x + 1 / r) / (1 + 1 / r)), from the nearer side.
  kept = jax.nn.sigmoid(bounded)
  lost = kept * one_minus_exp(log_x)
  near = lost < 0.5
  far = log_add(log_x, -log_r) - log_add(jnp.zeros(shape, log_r.dtype), -log_r)
  d = jnp.where(near, jnp.log1p(-jnp.where(near, lost, 0.0)), far)
  noisy = exp_gap(jnp.where(is_clean, 0.0, d)) / kept
  kl = jnp.where(is_clean, -d, noisy + spread * jnp.exp(-bounded))
  log_rho = jnp.where(z == x0, -d, -jnp.log1p(jnp.exp(bounded + log_z)))
  return kl, log_rho, log_x, log_z


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_terms(
  mask_id: int | None, logits: Array, x: Array, z: Array, log_r: Array
) -> tuple[Array, Array, Array]:
  """-> log xhat_x, log xhat_z, sum of u_y - log(1 + u_y) over y != x: each [L].

  logits: [L, K], over the tokens; what stands at the mask is not read.
  x, z: [L] ids. log_r: [L], u = r xhat.

  The one place of the bound that sees [L, K]. Its derivative is written out so
  that the backward pass needs the logits alone: XLA on CPU holds two arrays of
  their size, u and its slope, where autodiff of `rate_bound` holds ten.
  """
  return _token_terms_forward(mask_id, logits, x, z, log_r)[0]


def _token_terms_forward(
  mask_id: int | None, logits: Array, x: Array, z: Array, log_r: Array
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
  tokens = _without(mask_id, logits)
  total = jax.nn.logsumexp(tokens, axis=-1)
  at = lambda ids: (
    jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0] - total
  )
  log_x = at(x)
  log_z = at(z) if mask_id is None else jnp.where(z == mask_id, -jnp.inf, at(z))
  u = jnp.exp(tokens + (log_r - total)[..., None])
  spread = jnp.where(_is(x, logits), 0.0, log_gap(u)).sum(-1)
  return (log_x, log_z, spread), (logits, total, x, z, log_r)


def _token_terms_backward(
  mask_id: int | None, kept: tuple[Array, ...], cotangents: tuple[Array, ...]
) -> tuple[Array | None, ...]:
  logits, total, x, z, log_r = kept
  of_x, of_z, of_spread = (c[..., None] for c in cotangents)
  tokens, is_x = _without(mask_id, logits), _is(x, logits)
  u = jnp.exp(tokens + (log_r - total)[..., None])
  xhat = u * jnp.exp(-log_r)[..., None]
  # d spread / d log xhat_y = u^2 / (1 + u), and their sum is d / d log r.
  slope = jnp.where(is_x, 0.0, u * (u / (1 + u)))
  slopes = slope.sum(-1)
  if mask_id is not None:
    of_z = jnp.where(z[..., None] == mask_id, 0.0, of_z)
  grad = of_spread * slope + jnp.where(is_x, of_x, 0.0)
  grad += jnp.where(_is(z, logits), of_z, 0.0)
  grad -= xhat * (of_spread * slopes[..., None] + of_x + of_z)
  return grad, None, None, cotangents[2] * slopes


_token_terms.defvjp(_token_terms_forward, _token_terms_backward)


def _is(ids: Array, logits: Array) -> Array:
  """[L] -> [L, K], True at the id; never stored, as XLA fuses it."""
  return ids[..., None] == jnp.arange(logits.shape[-1])


def _without(mask_id: int | None, logits: Array) -> Array:
  if mask_id is None:
    return logits
  is_mask = jnp.arange(logits.shape[-1]) == mask_id
  return jnp.where(is_mask, -jnp.inf, logits)


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


@dataclasses.dataclass(frozen=True)
class Nelbo:
  """One draw of t per sequence and the bound there, plus both ends.

  The ends, the signal that is left at t = 1 and the noise at t = 0, are 0 for a
  schedule that goes from all signal to none.

  Attributes:
    bound: the continuous-time bound to use, an exact equal of `rate_bound` or
      that of another sampler.
    num_steps: T of the finite-step bound; 0 is continuous.
    process: a rank-one process to train under; None for that of the model.
  """

  bound: Bound = rate_bound
  num_steps: int = 0
  estimand: Estimand = 'nelbo'
  process: Any = None

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the terms diffusion, prior and reconstruction, and their sum."""
    model, x0 = models.student, batch.ids
    p = model.process if self.process is None else self.process
    u = batch.u[:, None]
    if self.num_steps:
      s, t = discrete(u, self.num_steps)
    else:
      s = t = continuous(u)
    keys = row_keys(key, batch.rows)
    xt = jax.vmap(p.corrupt)(keys, x0, t)
    if self.num_steps:
      loss = lambda head, *at: rank_one_step(p, at[0], head, *at[1:]).kl
      steps = token_losses(model, loss, xt, t, x0, xt, s, t)
      diffusion = self.num_steps * steps
    else:
      loss = lambda head, x0, xt, t: self.bound(p, x0, head, xt, t)
      diffusion = token_losses(model, loss, xt, t, x0, xt, t)
    # Of rank-one noise the ends are the same for every token.
    token = jnp.full((), 1 if p.mask_id == 0 else 0)
    prior = jnp.broadcast_to(prior_bound(p, token), x0.shape)
    decoder = jnp.broadcast_to(p.decoder_bound(), x0.shape)
    terms = {'diffusion': diffusion, 'prior': prior, 'reconstruction': decoder}
    return Loss(diffusion + prior + decoder, terms)
