"""Temperature, top-k and top-p, applied to what a network predicts of a token.

They reshape p(x_i | z). The head of a diffusion network is therefore first
converted to a posterior, whatever the process.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.numerics import log_one_hot, match_ranks
from textdiffusion.core.types import (
  Array,
  Dist,
  Posterior,
  Time,
  TokenHead,
  Transition,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.processes.bridge import TokenProcess, to_cavity, to_posterior


def filtered(
  logits: Float[Array, '... K'], temperature: float, top_k: int, top_p: float
) -> Float[Array, '... K']:
  """Returns the logits, -inf where cut off.

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
    return log_one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1])
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


def filtered_posterior(
  process: TokenProcess,
  head: TokenHead,
  x: Int[Array, '... L'],
  t: Time,
  reshape: Callable[[Array], Array],
) -> Posterior:
  """Any token head -> the posterior whose logits are reshaped, [L, K].

  Args:
    process: of the noise.
    head: at (x, t).
    x: ids.
    t: times of the tokens.
    reshape: logits [..., K] -> logits [..., K].
  """
  # Probability on tokens that x cannot come from must not count: a filter would
  # cut off the one that a visible x does come from.
  x, t = match_ranks(x, t)
  is_possible = process.likelihood(x, t) > -jnp.inf
  logits = jnp.where(
    is_possible, to_posterior(process, head, x, t).logits, -jnp.inf
  )
  # A mask at t = 0 can come from nothing: the other tokens decide.
  if not isinstance(head, Posterior):
    head = to_cavity(process, head, x, t)
  nowhere = ~is_possible.any(-1, keepdims=True)
  logits = jnp.where(nowhere, head.logits, logits)
  return Posterior(reshape(process.clean_log_probs(logits)))


@dataclasses.dataclass(frozen=True)
class Filter:
  """Temperature, top-k and top-p; see `filtered`.

  Attributes:
    temperature: logits are divided by it; 0 takes the most probable token.
    top_k: number of tokens that stay, 0 for all.
    top_p: probability mass that stays, 1 for all.
  """

  temperature: float = 1.0
  top_k: int = 0
  top_p: float = 1.0

  def __post_init__(self) -> None:
    check_fields(
      self, temperature='[0, 1e30]', top_k='[0, inf)', top_p='(0, 1]'
    )

  @property
  def cuts(self) -> bool:
    """Whether some tokens have no probability left."""
    return self.temperature == 0 or self.top_k > 0 or self.top_p < 1

  def __call__(self, logits: Float[Array, '... K']) -> Float[Array, '... K']:
    """Returns the logits, -inf where cut off."""
    if self == Filter():
      return logits
    return filtered(logits, self.temperature, self.top_k, self.top_p)

  def apply(self, process: TokenProcess, transition: Transition) -> Transition:
    """Returns `transition` with the head's posterior filtered."""
    if self == Filter():
      return transition

    def reshaped(
      head: TokenHead, xt: Int[Array, '... L'], s: Time, t: Time
    ) -> Dist:
      head = filtered_posterior(process, head, xt, t, self)
      return transition(head, xt, s, t)

    return reshaped
