"""Comparison of the marginals q_t of a clean token and of a prediction.

The bounds of rank-one processes need sums over the vocabulary. They are
computed here, with a derivative that stores only the logits.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Shaped

from textdiffusion.core.numerics import (
  exp_minus_linear,
  linear_minus_log,
  log_add,
  match_ranks,
  one_hot,
  one_minus_exp,
)
from textdiffusion.core.types import Array, Time
from textdiffusion.processes.bridge import without_mask
from textdiffusion.processes.rank_one import RankOne

# The largest log of signal over noise, or of noise over signal, that is used. A
# share of e^-60 is rounded off even in float64.
MAX_LOG_RATIO = 60.0


def compare_marginals(
  p: RankOne,
  x0: Int[Array, '... L'],
  logits: Float[Array, '... L K'],
  z: Int[Array, '... L'],
  t: Time,
) -> tuple[
  Float[Array, '... L'],
  Float[Array, '... L'],
  Float[Array, '... L'],
  Float[Array, '... L'],
]:
  """Compares the marginals q_t of the clean token and of the prediction xhat.

  Args:
    p: a rank-one process.
    x0: [L] clean tokens.
    logits: [L, K] of xhat, the cavity.
    z: [L] noisy tokens.
    t: time.

  Returns:
    KL(q_t(. | x0) || q_t(. | xhat)) / alpha_t, log rho with rho =
    q_t(z | x0) / q_t(z | xhat), log xhat(x0) and log xhat(z): [L] each.
  """
  x0, z, t = match_ranks(x0, z, t)
  token = jnp.full((), 1 if p.mask_id == 0 else 0)
  # A mask among the clean tokens is padding, which is never counted.
  x0 = jnp.where(p.is_mask(x0), token, x0)
  log_alpha = jnp.maximum(p.schedule(t).log_alpha[..., 0], -MAX_LOG_RATIO)
  log_r = log_alpha - p.log_noise(token, t)[..., 0]
  shape = jnp.broadcast_shapes(x0.shape, z.shape, log_r.shape)
  x0, z = jnp.broadcast_to(x0, shape), jnp.broadcast_to(z, shape)
  log_r = jnp.broadcast_to(log_r, shape).astype(logits.dtype)
  is_clean, bounded = log_r > MAX_LOG_RATIO, jnp.minimum(log_r, MAX_LOG_RATIO)
  log_x, log_z, spread = _token_terms(p.mask_id, logits, x0, z, bounded)
  if p.is_absorbing:
    return -log_x, jnp.where(z == x0, -log_x, 0.0), log_x, log_z

  # d = log((xhat_x + 1 / r) / (1 + 1 / r)), by the formula that is precise.
  kept = jax.nn.sigmoid(bounded)
  lost = kept * one_minus_exp(log_x)
  near = lost < 0.5
  far = log_add(log_x, -log_r) - log_add(jnp.zeros(shape, log_r.dtype), -log_r)
  d = jnp.where(near, jnp.log1p(-jnp.where(near, lost, 0.0)), far)
  noisy = exp_minus_linear(jnp.where(is_clean, 0.0, d)) / kept
  kl = jnp.where(is_clean, -d, noisy + spread * jnp.exp(-bounded))
  log_rho = jnp.where(z == x0, -d, -jnp.log1p(jnp.exp(bounded + log_z)))
  return kl, log_rho, log_x, log_z


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _token_terms(
  mask_id: int | None,
  logits: Float[Array, '*B L K'],
  x: Int[Array, '*B L'],
  z: Int[Array, '*B L'],
  log_r: Float[Array, '*B L'],
) -> tuple[Float[Array, '*B L'], Float[Array, '*B L'], Float[Array, '*B L']]:
  """Computes the parts of the bound that sum or gather over the vocabulary.

  Only this function of the bound touches [L, K] arrays. Its derivative is
  written by hand, so that the backward pass stores only the logits. XLA on CPU
  then holds two arrays of that size, u and its slope; automatic differentiation
  of `rate_bound` holds ten.

  Args:
    mask_id: id of the mask, whose logits are ignored; None for no mask.
    logits: [L, K] of xhat.
    x: [L] clean tokens.
    z: [L] noisy tokens.
    log_r: [L] log of r; u = r xhat.

  Returns:
    log xhat_x, log xhat_z and the sum of u_y - log(1 + u_y) over y != x, [L]
    each.
  """
  return _token_terms_forward(mask_id, logits, x, z, log_r)[0]


def _token_terms_forward(
  mask_id: int | None,
  logits: Float[Array, '*B L K'],
  x: Int[Array, '*B L'],
  z: Int[Array, '*B L'],
  log_r: Float[Array, '*B L'],
) -> tuple[
  tuple[Float[Array, '*B L'], Float[Array, '*B L'], Float[Array, '*B L']],
  tuple[Shaped[Array, '...'], ...],
]:
  """Returns the outputs of `_token_terms`, and the values to store."""
  tokens = without_mask(mask_id, logits)
  total = jax.nn.logsumexp(tokens, axis=-1)
  at = lambda ids: (
    jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0] - total
  )
  log_x = at(x)
  log_z = at(z) if mask_id is None else jnp.where(z == mask_id, -jnp.inf, at(z))
  u = jnp.exp(tokens + (log_r - total)[..., None])
  spread = jnp.where(
    one_hot(x, logits.shape[-1]), 0.0, linear_minus_log(u)
  ).sum(-1)
  return (log_x, log_z, spread), (logits, total, x, z, log_r)


def _token_terms_backward(
  mask_id: int | None,
  kept: tuple[Shaped[Array, '...'], ...],
  cotangents: tuple[Array, ...],
) -> tuple[Array | None, ...]:
  """Returns the gradients of logits and log_r; ids have none."""
  logits, total, x, z, log_r = kept
  grad_x, grad_z, grad_spread = (c[..., None] for c in cotangents)
  tokens, is_x = without_mask(mask_id, logits), one_hot(x, logits.shape[-1])
  u = jnp.exp(tokens + (log_r - total)[..., None])
  xhat = u * jnp.exp(-log_r)[..., None]
  # d spread / d log xhat_y = u^2 / (1 + u), whose sum over y is d spread /
  # d log r.
  slope = jnp.where(is_x, 0.0, u * (u / (1 + u)))
  slopes = slope.sum(-1)
  if mask_id is not None:
    grad_z = jnp.where(z[..., None] == mask_id, 0.0, grad_z)
  grad = grad_spread * slope + jnp.where(is_x, grad_x, 0.0)
  grad += jnp.where(one_hot(z, logits.shape[-1]), grad_z, 0.0)
  grad -= xhat * (grad_spread * slopes[..., None] + grad_x + grad_z)
  return grad, None, None, cotangents[2] * slopes


_token_terms.defvjp(_token_terms_forward, _token_terms_backward)
