"""Time grids for sampling: [num_steps + 1] times from 1 down to 0."""

import jax.numpy as jnp
from jaxtyping import Float

from textdiffusion.core.types import Array, Time


def uniform(num_steps: int) -> Float[Array, ' {num_steps}+1']:
  """Returns a grid of equal steps."""
  return jnp.linspace(1.0, 0.0, num_steps + 1)


def cosine(num_steps: int) -> Float[Array, ' {num_steps}+1']:
  """Returns t = cos(pi / 2 (1 - u)), u from 1 to 0: finer near t = 1 (MD4)."""
  grid = jnp.cos(jnp.pi / 2 * (1 - uniform(num_steps)))
  return grid.at[0].set(1.0).at[-1].set(0.0)


def plateau(
  num_steps: int, at: Time, t_on: float, t_off: float
) -> Float[Array, ' {num_steps}+1']:
  """Returns equal steps from 1 to `at`, a pause there, and equal steps to 0.

  ReMDM-loop (Wang et al. 2025, section 4.1), and the time profile of Duo.

  Args:
    num_steps: number of steps.
    at: time of the pause.
    t_on: share of the steps that is left when the pause starts.
    t_off: share of the steps that is left when the pause ends.
  """
  u = uniform(num_steps)
  before = 1 - (1 - u) * (1 - at) / (1 - t_on)
  grid = jnp.where(u > t_on, before, jnp.minimum(at, u * at / t_off))
  return grid.at[0].set(1.0).at[-1].set(0.0)
