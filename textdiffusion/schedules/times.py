"""Training times: maps of the stratified u in (0, 1) of a `Batch` to t."""

import jax.numpy as jnp

from textdiffusion.core.types import Array


def continuous(u: Array) -> Array:
  """u -> t = u, below 1 where float32 rounds u up; a hazard may be inf at 1."""
  return jnp.minimum(u, 1 - 2.0**-24)


def discrete(u: Array, num_steps: int) -> tuple[Array, Array]:
  """u -> (s, t) = ((i - 1) / T, i / T), i uniform on 1 ... T."""
  index = jnp.minimum(jnp.floor(u * num_steps), num_steps - 1)
  return index / num_steps, (index + 1) / num_steps
