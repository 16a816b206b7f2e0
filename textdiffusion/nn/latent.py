"""The two ends of a network over features: projections, embedding, rounding.

After Diffusion-LM (Li et al. 2022): Linear, tanh, Linear on either side of the
blocks, and embeddings that also serve to read tokens off features.
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp

from textdiffusion.core.types import Array, PyTree
from textdiffusion.nn.layers import Dense


class Projection(nn.Module):
  """[N, in] -> [N, features] through a hidden layer of tanh."""

  hidden: int
  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    dense = lambda size, name: Dense(size, True, self.dtype, name=name)
    x = jnp.tanh(dense(self.hidden, 'up')(x))
    return dense(self.features, 'out')(x)


def embed(params: PyTree, ids: Array) -> Array:
  """[...] ids -> [..., D]."""
  return jnp.take(params['embedding'], ids, axis=0)


def round_with(
  kind: Literal['dot', 'distance'],
) -> Callable[[PyTree, Array], Array]:
  """(params, features [..., D]) -> [..., K] logits, in float32."""

  def logits(params: PyTree, x: Array) -> Array:
    table = params['embedding']
    product = x @ table.T
    if kind == 'dot':
      return product + params['rounding_bias']
    square = jnp.square(x).sum(-1, keepdims=True) - 2 * product
    square = jnp.maximum(square + jnp.square(table).sum(-1), 1e-12)
    return params['rounding_bias'] - jnp.sqrt(square)

  return logits
