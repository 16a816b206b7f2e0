"""What the processes of D3PM share: T steps, on the grid t = i / T."""

import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log_one_hot
from textdiffusion.core.types import Array, Cavity, Time
from textdiffusion.processes.bridge import TokenProcess
from textdiffusion.schedules.times import place


class GridProcess(TokenProcess):
  """T = num_steps steps between t = 0 and t = 1; a time is the nearest i / T.

  Uniform noise at t = 1 is the prior by default; what q_1 tells beyond it is
  counted by `nelbo.prior_bound`.
  """

  num_steps: int

  def prior(self) -> Categorical:
    """Uniform over the tokens, [K]."""
    is_mask = self.is_mask(jnp.arange(self.num_states))
    return Categorical(jnp.where(is_mask, -jnp.inf, 0.0))

  def clean(self, x0: Array) -> Cavity:
    """[L] ids -> the head that knows them, as ids: `marginal` of ids is exact
    where that of a network's output is computed to float precision only."""
    return Cavity(x0)

  def place(self, t: Time) -> Array:
    """t -> i, any shape."""
    return place(t, self.num_steps)


def safe_log(p: Array) -> Array:
  """log p, -inf with zero gradient at p = 0."""
  return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), -jnp.inf)


def identity(x0: Array, log_probs: Array, is_clean: Array) -> Array:
  """`log_probs` [L, K], but x0 itself where no step was taken: [L] or [1]."""
  if jnp.issubdtype(x0.dtype, jnp.integer):
    x0 = log_one_hot(x0, log_probs.shape[-1])
  return jnp.where(is_clean[..., None], x0.astype(log_probs.dtype), log_probs)
