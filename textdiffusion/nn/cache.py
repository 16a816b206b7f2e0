"""Keys and values of the tokens that a causal network has seen."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from textdiffusion.core.types import Array


class Cache(NamedTuple):
  """k, v: [B, S, G, D] of one layer, S places; scanned layers lead with N."""

  k: Array
  v: Array


def empty(shape: tuple[int, ...], dtype: jnp.dtype) -> Cache:
  """A cache that nothing was written to."""
  return Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def extend(cache: Cache, k: Array, v: Array, start: Array) -> Cache:
  """Writes [B, n, G, D] keys and values at places start ... start + n - 1."""
  put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(
    old, new.astype(old.dtype), start, axis=1
  )
  return Cache(put(cache.k, k), put(cache.v, v))


def visible(num_places: int, num_new: int, start: Array) -> Array:
  """[1, 1, n, S]: the new tokens see every place up to their own."""
  place = start + jnp.arange(num_new)
  return (jnp.arange(num_places)[None] <= place[:, None])[None, None]
