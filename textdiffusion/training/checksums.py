"""Checksums of the items of a checkpoint. They do not depend on the mesh."""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.types import Array, PyTree


def json_checksum(tree: dict[str, Any]) -> int:
  """Returns the CRC-32 of the JSON text of `tree`."""
  return zlib.crc32(json.dumps(tree, sort_keys=True).encode())


def array_checksums(parts: dict[str, PyTree]) -> dict[str, Any]:
  """Returns a list of checksums for each item, one for each array."""
  sums = {name: jax.tree.leaves(_sums(item)) for name, item in parts.items()}
  return {
    name: [int(np.asarray(x)) for x in arrays] for name, arrays in sums.items()
  }


@jax.jit
def _sums(tree: PyTree) -> PyTree:
  """Returns the checksum of each array in `tree`.

  The checksum is the sum of the array's words modulo 2^32, where each word is
  multiplied by an odd number that depends on its place. A change of any single
  word changes it.
  """

  def one(x: Array) -> Array:
    size = min(x.dtype.itemsize, 4)
    if x.dtype == bool:
      x = x.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * size}'))
    words, weight = words.astype(jnp.uint32), jnp.uint32(1)
    for axis in range(words.ndim):
      place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
      weight = weight * jnp.uint32(40503) + 2 * place
    return (words * weight).sum(dtype=jnp.uint32)

  return jax.tree.map(one, tree)
