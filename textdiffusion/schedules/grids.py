"""Sampling grids: [num_steps + 1] times from 1 down to 0."""

import jax.numpy as jnp

from textdiffusion.core.types import Array


def uniform(num_steps: int) -> Array:
  """Equal steps."""
  return jnp.linspace(1.0, 0.0, num_steps + 1)


def cosine(num_steps: int) -> Array:
  """t = cos(pi / 2 (1 - u)), u from 1 to 0: finer near noise, MD4."""
  grid = jnp.cos(jnp.pi / 2 * (1 - uniform(num_steps)))
  return grid.at[0].set(1.0).at[-1].set(0.0)
