"""Temperature, top-k and top-p, on what a network says of a token.

They reshape p(x_i | z), so a diffusion head is first made a posterior, whatever
the process; a causal head is one already.
"""

import jax
import jax.numpy as jnp

from textdiffusion.core.types import (
  Array,
  Causal,
  DenoiseFn,
  Head,
  Posterior,
  Time,
  X,
)
from textdiffusion.processes.bridge import (
  TokenProcess,
  to_cavity,
  to_posterior,
)


def filtered(
  logits: Array, temperature: float, top_k: int, top_p: float
) -> Array:
  """[..., K] -> [..., K] logits, -inf where cut off.

  Args:
    logits: unnormalised.
    temperature: logits are divided by it; 0, and what float32 rounds to it, is
      the argmax.
    top_k: how many tokens stay, 0 for all; ties with the k-th stay too.
    top_p: the smallest set with this mass stays; the token that crosses it is
      in (Holtzman et al. 2020). 1 for all.
  """
  # A smaller number is zero to an accelerator, and so would be the divisor.
  if temperature < jnp.finfo(jnp.float32).tiny:
    best = jnp.argmax(logits, axis=-1, keepdims=True)
    keep = jnp.arange(logits.shape[-1]) == best
    return jnp.where(keep, 0.0, -jnp.inf)
  if temperature < 1:  # a quotient of the largest must not overflow
    best = jnp.max(logits, axis=-1, keepdims=True)
    logits = logits - jnp.where(jnp.isfinite(best), best, 0)
  logits = logits / temperature
  if 0 < top_k < logits.shape[-1]:
    least = jax.lax.top_k(logits, top_k)[0][..., -1:]
    logits = jnp.where(logits < least, -jnp.inf, logits)
  if top_p < 1:
    probs = jax.nn.softmax(logits)
    descending = -jnp.sort(-probs, axis=-1)
    before = jnp.cumsum(descending, axis=-1) - descending
    least = jnp.min(
      jnp.where(before < top_p, descending, jnp.inf), axis=-1, keepdims=True
    )
    logits = jnp.where(probs < least, -jnp.inf, logits)
  return logits


def filter_causal(
  head: Head, temperature: float, top_k: int, top_p: float
) -> Causal:
  """Causal -> Causal. Raises TypeError for any other head."""
  if not isinstance(head, Causal):
    raise TypeError(
      f'left-to-right decoding takes a Causal head, not {type(head).__name__}'
    )
  return Causal(filtered(head.logits, temperature, top_k, top_p))


def filter_denoiser(
  process: TokenProcess,
  denoise: DenoiseFn,
  temperature: float,
  top_k: int,
  top_p: float,
) -> DenoiseFn:
  """A denoiser whose posterior is reshaped; `denoise` itself if by nothing."""
  if temperature == 1 and top_k == 0 and top_p == 1:
    return denoise

  def reshaped(x: X, t: Time) -> Posterior:
    head = denoise(x, t)
    # What a network says of tokens that x cannot come from must not count:
    # a filter would cut off the one that a visible x does come from.
    is_possible = process.likelihood(x, t) > -jnp.inf
    logits = jnp.where(
      is_possible, to_posterior(process, head, x, t).logits, -jnp.inf
    )
    # A mask at t = 0 can come from nothing; it is then what the others say.
    if not isinstance(head, Posterior):
      head = to_cavity(process, head, x, t)
    nowhere = ~is_possible.any(-1, keepdims=True)
    logits = jnp.where(nowhere, head.logits, logits)
    logits = process.clean_log_probs(logits)
    return Posterior(filtered(logits, temperature, top_k, top_p))

  return reshaped
