"""Bounds on -log p(x0), per token in nats.

`rate_bound` (continuous time) and `step_bound` (finite steps) hold for every
process and head. `masked_bound`, `rank_one_bound` and `rank_one_step` equal
them for the processes that they take, and cost less.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import (
  exp_minus_linear,
  linear_minus_log,
  log_add,
  match_ranks,
  poisson_kl,
)
from textdiffusion.core.types import (
  Array,
  Batch,
  Cavity,
  Head,
  Key,
  Posterior,
  Process,
  Time,
  X,
)
from textdiffusion.model import token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.objectives.marginals import MAX_LOG_RATIO, compare_marginals
from textdiffusion.processes.bridge import (
  to_cavity,
  to_log_score,
  without_mask,
)
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.schedules.noise import log_transition
from textdiffusion.schedules.times import continuous, discrete

Bound = Callable[
  [RankOne, Int[Array, '... L'], Any, Int[Array, '... L'], Time],
  Float[Array, '... L'],
]


def rate_bound(
  p: RankOne,
  x0: Int[Array, '... L'],
  head: Head,
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes the continuous-time bound at time t.

  sum_y R_t(y -> z) [r_model - r + r log(r / r_model)], r = q_t(y) / q_t(z): a
  Poisson KL between reverse rates. MDLM, MD4, UDLM, Duo, GIDD and SEDD use
  special cases of it. It needs only `p.rate`, so it holds for any forward rate
  matrix.

  Args:
    p: a token process with forward rates.
    x0: [L] clean tokens.
    head: any token head at x_t.
    z: [L] noisy tokens.
    t: time.

  Returns:
    [L] nats per unit of t.
  """
  x0, z, t = match_ranks(x0, z, t)
  rate = p.rate(z, t)
  exact = to_log_score(p, p.clean(x0), z, t).value
  model = to_log_score(p, head, z, t).value
  jumps = jnp.where(
    rate > 0, poisson_kl(exact, jnp.where(rate > 0, model, 0)), 0
  )
  return jnp.where(rate > 0, rate * jumps, 0.0).sum(-1)


def masked_bound(
  p: RankOne,
  x0: Int[Array, '... L'],
  head: Head,
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes `rate_bound` of the absorbing process: cross-entropy on masks.

  The weight of -log xhat(x0) is -alpha' / (1 - alpha) (MDLM, equation 10). The
  logits are the only [L, K] array.

  Args:
    p: an absorbing process.
    x0: [L] clean tokens.
    head: `Cavity` or `Posterior` at x_t; on masks the two are equal.
    z: [L] noisy tokens.
    t: time.

  Returns:
    [L] nats per unit of t.

  Raises:
    TypeError: the head is of another type.
  """
  if not isinstance(head, Cavity | Posterior):
    raise TypeError(
      f'masked_bound takes Cavity or Posterior heads, not {type(head).__name__}'
    )
  x0, z, t = match_ranks(x0, z, t)
  is_masked = p.is_mask(z)
  level = p.schedule(t)
  weight = (level.rate * jnp.exp(-level.log_1m_alpha))[..., 0]
  logits = without_mask(p.mask_id, head.logits)
  # A mask among the clean tokens is padding: it has no likelihood and is never
  # counted. At a visible token a posterior may have a logit of -inf for x0.
  token = jnp.where(p.is_mask(x0), (p.mask_id == 0) * 1, x0)
  safe_x0 = jnp.where(is_masked, token, z)
  chosen = jnp.take_along_axis(logits, safe_x0[..., None], axis=-1)[..., 0]
  nats = jax.nn.logsumexp(logits, axis=-1) - chosen
  return jnp.where(is_masked, weight, 0.0) * nats


def rank_one_bound(
  p: RankOne,
  x0: Int[Array, '... L'],
  head: Head,
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes `rate_bound` of a rank-one process at about the cost of a softmax.

  R_t(z) / q_t(z | x) [KL(q_t(. | x) || q_t(. | xhat)) + rho - log rho - 1],
  rho = q_t(z | x) / q_t(z | xhat) (von Rütte et al. 2025). The losses of UDLM,
  Duo, XDLM and MDLM are special cases. With a `Cavity` head, the backward pass
  stores only the logits; other heads are converted first.

  Args:
    p: a rank-one process.
    x0: [L] clean tokens.
    head: any token head at x_t.
    z: [L] noisy tokens.
    t: time.

  Returns:
    [L] nats per unit of t.
  """
  weight = bound_weight(p, x0, z, t)
  nats = rank_one_divergence(p, x0, head, z, t)
  return jnp.where(weight > 0, weight * jnp.where(weight > 0, nats, 0.0), 0.0)


def bound_weight(
  p: RankOne, x0: Int[Array, '... L'], z: Int[Array, '... L'], t: Time
) -> Float[Array, '... L']:
  """Returns alpha_t R_t(z) / q_t(z | x), or 0 if noise never turns x into z.

  Args:
    p: a rank-one process.
    x0: [L] clean tokens x.
    z: [L] noisy tokens.
    t: time.

  Returns:
    [L] weights of `rank_one_divergence`.
  """
  x0, z, t = match_ranks(x0, z, t)
  flow = p.flow(z, t)[..., 0]
  log_q = p.log_noise(z, t)[..., 0]
  signal = p.schedule(t).log_alpha[..., 0]
  log_q = jnp.where(z == x0, log_add(signal, log_q), log_q)
  some = (flow > 0) & (log_q > -jnp.inf)
  return jnp.where(some, flow * jnp.exp(-jnp.where(some, log_q, 0.0)), 0.0)


def rank_one_divergence(
  p: RankOne,
  x0: Int[Array, '... L'],
  head: Head,
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes the divergence of `rank_one_bound`, without its weight.

  This is [KL(q_t(. | x) || q_t(. | xhat)) + rho - log rho - 1] / alpha_t. With
  b the probability that noise gives to one token, r = alpha / b and
  u_y = r xhat_y,

    KL / b = (1 + r) g(d) + sum over tokens y != x of [u_y - log(1 + u_y)],

  g(d) = exp(d) - 1 - d, d = log q_t(x | xhat) / q_t(x | x). The terms of the
  mask are equal and cancel. rho - log rho - 1 is g(log rho).

  No term is negative and each has a small relative error. So nothing cancels
  when there is little signal and all terms are O(alpha^2). Divided by alpha,
  the sum is finite at both ends of time. Without noise on the tokens it is
  -log xhat(x), as in MDLM.

  Args:
    p: a rank-one process.
    x0: [L] clean tokens x.
    head: any token head at x_t.
    z: [L] noisy tokens.
    t: time.

  Returns:
    [L] nats.
  """
  x0, z, t = match_ranks(x0, z, t)
  logits = to_cavity(p, head, z, t).logits
  kl, log_rho, _, _ = compare_marginals(p, x0, logits, z, t)
  if p.is_absorbing:
    # Either rho is 1 or the weight is 0.
    return kl
  log_alpha = jnp.maximum(p.schedule(t).log_alpha[..., 0], -MAX_LOG_RATIO)
  return kl + exp_minus_linear(log_rho) * jnp.exp(-log_alpha)


class Step(NamedTuple):
  """Losses of one step, [L] nats each.

  Attributes:
    kl: `step_bound`.
    posterior: cross-entropy of x0 under the posterior.
    cavity: cross-entropy of x0 under the cavity.
  """

  kl: Float[Array, '... L']
  posterior: Float[Array, '... L']
  cavity: Float[Array, '... L']


def rank_one_step(
  p: RankOne,
  x0: Int[Array, '... L'],
  head: Head,
  xt: Int[Array, '... L'],
  s: Time,
  t: Time,
) -> Step:
  """Computes `step_bound` of a rank-one process at about the cost of a softmax.

  Given x0, the token z = xt was placed by the noise between s and t with
  probability a, and equals x_s with probability 1 - a. With KL_s the divergence
  of the marginals at s, and e^l = q_s(z | xhat) / q_s(z | x0),

    KL = a KL_s + [log(a + (1 - a) e^l) - (1 - a) l],

  where neither term is negative, and xhat is the head's distribution of x0. The
  logarithm log(a + (1 - a) e^l) is log q_t(z | xhat) / q_t(z | x0). Less
  log xhat(x0), it is the cross-entropy of the posterior over x0.

  Args:
    p: a rank-one process.
    x0: [L] clean tokens.
    head: any token head at x_t.
    xt: [L] noisy tokens.
    s: end of the step, s < t.
    t: start of the step.

  Returns:
    The bound, the cross-entropy of xhat, and that of the posterior, in nats.
  """
  x0, xt, s, t = match_ranks(x0, xt, s, t)
  logits = to_cavity(p, head, xt, t).logits
  kl, log_rho, log_x, log_z = compare_marginals(p, x0, logits, xt, s)
  now, then = p.schedule(s), p.schedule(t)
  signal = jnp.maximum(now.log_alpha[..., 0], -MAX_LOG_RATIO)
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
  where_possible = lambda value: jnp.where(is_possible, value, 0.0)
  return Step(where_possible(nats), where_possible(gained - log_x), -log_x)


def _jensen_gap(
  a: Float[Array, '... L'],
  b: Float[Array, '... L'],
  x: Float[Array, '... L'],
  log_bx: Float[Array, '... L'],
) -> Float[Array, '... L']:
  """Computes log(a + b e^x) - b x >= 0, with a small relative error.

  Args:
    a: [L] probabilities.
    b: [L] probabilities, 1 - a.
    x: [L].
    log_bx: [L] log(b e^x), which is finite where b is 0 and e^x infinite.

  Returns:
    [L] values.
  """
  # The formulas use the smaller of a and b, and factor out e^x if that is a.
  is_a = a < b
  smaller, signed_x = jnp.where(is_a, a, b), jnp.where(is_a, -x, x)
  is_near = jnp.abs(signed_x) < 1
  small = jnp.where(is_near, signed_x, 0.0)
  near = smaller * exp_minus_linear(small) - linear_minus_log(
    smaller * jnp.expm1(small)
  )
  log_term = jnp.where(is_a, jnp.log(a) - x, log_bx)
  product = jnp.where(smaller > 0, smaller * signed_x, 0.0)
  far = log_add(jnp.log1p(-smaller), log_term) - product
  return jnp.where(is_near, near, far)


def step_bound(
  p: Process, x0: X, head: Head, xt: X, s: Time, t: Time
) -> Float[Array, '...']:
  """Computes KL(q(x_s | x_t, x0) || p(x_s | x_t)) of one reverse step.

  The sum over a grid of steps and `prior_bound` is the exact bound of D3PM and
  DDPM. At s = 0, a token process without noise at t = 0 gives the
  reconstruction -log p(x0 | x_t).

  Args:
    p: any process.
    x0: clean tokens [L] or features [L, D].
    head: any head that the process takes, at x_t.
    xt: noisy tokens or features.
    s: end of the step, s < t.
    t: start of the step.

  Returns:
    [L] or [L, D] nats.
  """
  exact = p.bridge(p.clean(x0), xt, s, t)
  return exact.kl(p.bridge(head, xt, s, t))


def prior_bound(p: Process, x0: X) -> Float[Array, '...']:
  """Returns KL(q_1(. | x0) || prior): [L] or [L, D] nats."""
  return p.marginal(x0, 1.0).kl(p.prior())


@dataclasses.dataclass(frozen=True)
class Nelbo:
  """The bound at one random time per row, plus terms for both ends of time.

  The terms for the ends count the signal left at t = 1 and the noise at t = 0.
  They are 0 for a schedule that goes from alpha = 1 to alpha = 0.

  Attributes:
    bound: the continuous-time bound, a function equal to `rate_bound` or the
      bound of another sampler.
    num_steps: number of steps of the bound, T; 0 is continuous time.
    estimand: whether the mean of the loss bounds -log p(x0).
    process: rank-one process of the training noise; None for that of the model.
  """

  bound: Bound = rate_bound
  num_steps: int = 0
  estimand: Estimand = 'nelbo'
  process: RankOne | None = None

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the sum of the terms diffusion, prior and reconstruction."""
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
    # For rank-one noise the terms of both ends are the same for every token.
    token = jnp.full((), 1 if p.mask_id == 0 else 0)
    prior = jnp.broadcast_to(prior_bound(p, token), x0.shape)
    decoder = jnp.broadcast_to(p.decoder_bound(), x0.shape)
    terms = {'diffusion': diffusion, 'prior': prior, 'reconstruction': decoder}
    return Loss(diffusion + prior + decoder, terms)
