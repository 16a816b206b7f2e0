"""Base class of the processes of D3PM, which have T steps on the grid i / T."""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log_one_hot, match_ranks
from textdiffusion.core.types import Array, Cavity, Time
from textdiffusion.processes.bridge import TokenProcess
from textdiffusion.schedules.times import place


class GridProcess(TokenProcess):
  """A process of T steps. A time stands for the nearest i / T.

  The default prior is uniform. `nelbo.prior_bound` counts the difference from
  q_1.

  Attributes:
    num_steps: number of steps, T.
  """

  num_steps: int

  def prior(self) -> Categorical:
    """Returns the uniform distribution over the tokens, [K]."""
    is_mask = self.is_mask(jnp.arange(self.num_states))
    return Categorical(jnp.where(is_mask, -jnp.inf, 0.0))

  def clean(self, x0: Int[Array, '... L']) -> Cavity:
    """Returns the head of a perfect prediction of the ids [L].

    It contains ids in place of logits, as the `marginal` of ids is exact, and
    that of logits is computed to float precision.
    """
    return Cavity(x0)

  def place(self, t: Time) -> Int[Array, '...']:
    """Returns the index i of the nearest i / T, in the shape of t."""
    return place(t, self.num_steps)


def safe_log(p: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """Returns log p, which is -inf with zero gradient at p = 0."""
  return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), -jnp.inf)


def identity(
  x0: Int[Array, '...'] | Float[Array, '... K'],
  log_probs: Float[Array, '... K'],
  is_clean: Bool[Array, '...'],
) -> Float[Array, '... K']:
  """Returns log probabilities with x0 itself where no step was taken.

  Args:
    x0: ids [L] or log probabilities [L, K].
    log_probs: [L, K] log probabilities after the steps.
    is_clean: [L] or [1], True where no step was taken.
  """
  if jnp.issubdtype(x0.dtype, jnp.integer):
    x0 = log_one_hot(x0, log_probs.shape[-1])
  kept, x0, log_probs = match_ranks(is_clean[..., None], x0, log_probs)
  return jnp.where(kept, x0.astype(log_probs.dtype), log_probs)
