"""Random streams: keys are derived from a seed by name, step and row.

Nothing random is stored: a run that resumes, or that is laid out on other
devices, derives the same keys.
"""

import zlib

import jax
import jax.numpy as jnp

from textdiffusion.core.types import Array, Key, UserError


def check_seed(name: str, seed: int) -> None:
  """Raises UserError for a seed that JAX would reduce to 32 bits or refuse."""
  if isinstance(seed, int) and not 0 <= seed < 2**32:
    raise UserError(f'{name}={seed}: must be from 0 to 2**32 - 1')


def stream(key: Key, name: str) -> Key:
  """The key of a named stream; crc32, as `hash` differs between processes."""
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def row_keys(key: Key, rows: Array) -> Key:
  """[B] row indices -> [B] keys; a row's does not depend on the others."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(rows))


def strata(
  key: Key, rows: Array, num_rows: int, is_shared: bool = False
) -> Array:
  """[B] rows of num_rows -> [B] numbers in (0, 1), one in each stratum.

  Row i gets a uniform draw from [i / n, (i + 1) / n): jittered on its own, or
  by a jitter that all share (systematic sampling: VDM, Kingma et al. 2021,
  and MD4 have u + i / n mod 1, which is the same set of numbers).
  """
  uniform = lambda k: jax.random.uniform(k, minval=2.0**-24)
  jitter = uniform(key) if is_shared else jax.vmap(uniform)(row_keys(key, rows))
  return (rows + jitter) / num_rows
