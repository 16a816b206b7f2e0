"""Random keys, derived from a seed by name of stream, step and row.

Keys are never stored. A run that is resumed, or sharded differently, derives
the same keys.
"""

import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.types import Array, Key, UserError


def check_seed(name: str, seed: int) -> None:
  """Raises UserError for a seed that JAX would truncate to 32 bits or reject.

  Args:
    name: name of the option, for the message.
    seed: the seed.
  """
  if isinstance(seed, int) and not 0 <= seed < 2**32:
    raise UserError(f'{name}={seed}: must be from 0 to 2**32 - 1')


def stream(key: Key, name: str) -> Key:
  """Returns the key of a named stream.

  Names are hashed by crc32, as `hash` differs between processes.
  """
  return jax.random.fold_in(key, zlib.crc32(name.encode()))


def row_keys(key: Key, rows: Int[Array, ' B']) -> Key:
  """Returns one key per row index, [B]; it does not depend on other rows."""
  return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.asarray(rows))


def strata(
  key: Key, rows: Int[Array, ' B'], num_rows: int, is_shared: bool = False
) -> Float[Array, ' B']:
  """Draws stratified numbers in (0, 1): row i from [i / n, (i + 1) / n).

  Args:
    key: random key.
    rows: [B] indices of rows in the global batch.
    num_rows: n, the rows of the global batch.
    is_shared: whether all rows have the same offset in their stratum
      (systematic sampling). VDM (Kingma et al. 2021) and MD4 use
      u + i / n mod 1, which is the same set of numbers.

  Returns:
    [B] numbers.
  """
  uniform = lambda k: jax.random.uniform(k, minval=2.0**-24)
  jitter = uniform(key) if is_shared else jax.vmap(uniform)(row_keys(key, rows))
  return (rows + jitter) / num_rows
