"""Training times: maps of the stratified u in (0, 1) of a `Batch` to t."""

import jax
import jax.numpy as jnp

from textdiffusion.core.types import Array


def continuous(u: Array) -> Array:
  """u -> t = u, below 1 where float32 rounds u up; a hazard may be inf at 1."""
  return jnp.minimum(u, 1 - 2.0**-24)


def discrete(u: Array, num_steps: int) -> tuple[Array, Array]:
  """u -> (s, t) = ((i - 1) / T, i / T), i uniform on 1 ... T."""
  index = jnp.minimum(jnp.floor(u * num_steps), num_steps - 1)
  return index / num_steps, (index + 1) / num_steps


def multi_level(u: Array | float, length: int, num_steps: int) -> Array:
  """u in [0, 1] -> t of each position, [..., L]: left ones are ahead of right
  ones (AR-Diffusion, Wu et al. 2023, algorithm 1).

  A point moves from (L - 1, 0) to (0, 0) and on to (0, T - 1), and t lies on
  the line from it to (2 L, T - 1): 0 left of it. In units of T - 1 steps.
  """
  last = num_steps - 1
  moved = jnp.asarray(u)[..., None] * (length - 1 + last)
  place = jnp.maximum(length - 1 - moved, 0.0)
  level = jnp.maximum(moved - (length - 1), 0.0)
  slope = (last - level) / (2 * length - place)
  line = level + slope * (jnp.arange(length) - place)
  return jnp.clip(line / last, 0.0, 1.0)


def place(t: Array | float, num_steps: int) -> Array:
  """t -> the nearest i of the grid i / T, any shape of int."""
  nearest = jnp.round(jnp.asarray(t) * num_steps)
  return jnp.clip(nearest, 0, num_steps).astype(int)


def walk(u: Array | float, length: int, num_steps: int) -> Array:
  """`multi_level` on the grid i / T."""
  return place(multi_level(u, length, num_steps), num_steps) / num_steps


def num_fine_steps(length: int, num_steps: int) -> int:
  """The number of steps of `fine_walk`."""
  return (length - 1) * _fine_parts(length, num_steps) + num_steps - 1


def fine_walk(index: Array, length: int, num_steps: int) -> Array:
  """Times of each position, [..., L], after `index` of N = `num_fine_steps`
  steps of a walk from no noise to all noise, in which no step is long.

  While the point of `multi_level` moves from (L - 1, 0) to (0, 0), one unit of
  its way moves a position by up to (T - 1) / (L + 1) levels, so each unit is
  split into ceil(T / (L + 1)) equal steps. From (0, 0) to (0, T - 1) a unit is
  one step. No step moves a position by more than two levels.
  """
  parts = _fine_parts(length, num_steps)
  begin = (length - 1) * parts
  index = jnp.asarray(index)
  moved = jnp.minimum(index, begin) / parts + jnp.maximum(index - begin, 0)
  return walk(moved / (length + num_steps - 2), length, num_steps)


def _fine_parts(length: int, num_steps: int) -> int:
  """The number of steps into which `fine_walk` splits a unit."""
  return -(-num_steps // (length + 1))


def snapped(grid: Array, num_steps: int) -> Array:
  """Descending times from 1 to 0 -> each on the grid i / T, none twice.

  A grid of at most T steps that is finer than 1 / T somewhere is pushed apart.
  """
  i = place(grid, num_steps)
  rest = jnp.arange(len(grid))[::-1]
  # At least as many places as steps are left, then none that was taken.
  i = jnp.maximum(i, rest)
  i = jax.lax.cummin(i + jnp.arange(len(grid))) - jnp.arange(len(grid))
  return i / num_steps
