"""Training times, computed from the stratified u in (0, 1) of a `Batch`."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int, Num

from textdiffusion.core.numerics import match_ranks
from textdiffusion.core.types import Array, Time


def continuous(u: Float[Array, '*shape']) -> Float[Array, '*shape']:
  """Returns t = u, kept below 1, as a hazard may be infinite at t = 1.

  float32 may have rounded u up to 1.
  """
  return jnp.minimum(u, 1 - 2.0**-24)


def discrete(
  u: Float[Array, '*shape'], num_steps: int
) -> tuple[Float[Array, '*shape'], Float[Array, '*shape']]:
  """Returns (s, t) = ((i - 1) / T, i / T), where i is uniform on 1 ... T."""
  index = jnp.minimum(jnp.floor(u * num_steps), num_steps - 1)
  return index / num_steps, (index + 1) / num_steps


def multi_level(
  u: Time, length: int, num_steps: int
) -> Float[Array, '... {length}']:
  """Returns the time of each position; left positions have smaller times.

  AR-Diffusion (Wu et al. 2023, algorithm 1): a point (position, step) moves
  from (L - 1, 0) to (0, 0) and on to (0, T - 1). Times are on the line from
  this point to (2 L, T - 1), in units of T - 1 steps, and 0 to the left of the
  point.

  Args:
    u: how far the point has moved, in [0, 1].
    length: tokens in a row, L.
    num_steps: number of steps, T.

  Returns:
    [..., L] times.
  """
  last = num_steps - 1
  u, position = match_ranks(jnp.asarray(u)[..., None], jnp.arange(length))
  moved = u * (length - 1 + last)
  place = jnp.maximum(length - 1 - moved, 0.0)
  level = jnp.maximum(moved - (length - 1), 0.0)
  slope = (last - level) / (2 * length - place)
  line = level + slope * (position - place)
  return jnp.clip(line / last, 0.0, 1.0)


def place(t: Time, num_steps: int) -> Int[Array, '...']:
  """Returns the index i of the nearest time i / T, in the shape of t."""
  nearest = jnp.round(jnp.asarray(t) * num_steps)
  return jnp.clip(nearest, 0, num_steps).astype(int)


def walk(u: Time, length: int, num_steps: int) -> Float[Array, '... {length}']:
  """Returns `multi_level` times, rounded to the grid i / T.

  Args:
    u: how far the point has moved, in [0, 1].
    length: tokens in a row, L.
    num_steps: number of steps, T.

  Returns:
    [..., L] times.
  """
  return place(multi_level(u, length, num_steps), num_steps) / num_steps


def num_fine_steps(length: int, num_steps: int) -> int:
  """Returns the number of steps of `fine_walk`."""
  return (length - 1) * _fine_parts(length, num_steps) + num_steps - 1


def fine_walk(
  index: Num[Array, '...'], length: int, num_steps: int
) -> Float[Array, '... {length}']:
  """Returns the times after some of the steps of a walk from t = 0 to t = 1.

  No step of the walk moves a position by more than two levels. While the point
  of `multi_level` moves from (L - 1, 0) to (0, 0), one unit of its way moves a
  position by up to (T - 1) / (L + 1) levels, so each unit is split into
  ceil(T / (L + 1)) equal steps. From (0, 0) to (0, T - 1) a unit is one step.

  Args:
    index: number of steps taken, out of `num_fine_steps`.
    length: tokens in a row, L.
    num_steps: number of steps, T.

  Returns:
    [..., L] times of the positions.
  """
  parts = _fine_parts(length, num_steps)
  begin = (length - 1) * parts
  index = jnp.asarray(index)
  moved = jnp.minimum(index, begin) / parts + jnp.maximum(index - begin, 0)
  return walk(moved / (length + num_steps - 2), length, num_steps)


def _fine_parts(length: int, num_steps: int) -> int:
  """Returns the number of steps into which `fine_walk` splits a unit."""
  return -(-num_steps // (length + 1))


def snapped(grid: Float[Array, ' N'], num_steps: int) -> Float[Array, ' N']:
  """Rounds times to distinct multiples of 1 / T; 1 and 0 stay.

  Args:
    grid: at most T + 1 times that descend from 1 to 0. Those that would
      coincide are moved apart.
    num_steps: number of steps, T.
  """
  i = place(grid, num_steps)
  rest = jnp.arange(len(grid))[::-1]
  # First leave room for the steps that follow, then avoid points already used.
  i = jnp.maximum(i, rest)
  i = jax.lax.cummin(i + jnp.arange(len(grid))) - jnp.arange(len(grid))
  return i / num_steps
