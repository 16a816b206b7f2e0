"""The two ends of a network over features: projections, embedding, rounding.

After Diffusion-LM (Li et al. 2022): Linear, tanh, Linear on either side of the
blocks, and embeddings that also serve to read tokens off features.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from textdiffusion.core.numerics import by_parts
from textdiffusion.core.types import Array, Features, PyTree
from textdiffusion.nn import layout
from textdiffusion.nn.layers import Dense


class Projection(nn.Module):
  """[..., in] -> [..., features] through a hidden layer of tanh."""

  hidden: int
  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    dense = lambda size, name: Dense(size, True, self.dtype, name=name)
    x = jnp.tanh(dense(self.hidden, 'up')(x))
    return dense(self.features, 'out')(x)


class Ends(NamedTuple):
  """What of a network makes features of tokens and tokens of features; each a
  function of its parameters, see `Denoiser`."""

  table: Callable[[PyTree], Array]
  embed: Callable[[PyTree, Array], Array]
  round: Callable[[PyTree, Array], Array]
  expect: Callable[[PyTree, Array], Array]


def ends(features: Features) -> Ends:
  """[K, D] embeddings, normalised as asked; ids [...] -> [..., D]; features
  [..., D] -> logits [..., K]; logits [..., K] -> mean embedding [..., D]."""

  def table(params: PyTree) -> Array:
    # Small, and read at both ends: whole wherever it is used.
    raw = layout.constrained(params['embedding'], None, None)
    if features.norm == 'none':
      return raw
    if features.norm == 'layer':
      raw = raw - raw.mean(-1, keepdims=True)
    square = jnp.square(raw)
    total = square.sum if features.norm == 'unit' else square.mean
    return raw / jnp.maximum(jnp.sqrt(total(-1, keepdims=True)), 1e-6)

  def round_(params: PyTree, x: Array) -> Array:
    rows, bias = table(params), params['rounding_bias']
    product = x @ rows.T
    if features.rounding == 'dot':
      return product + bias
    square = jnp.square(x).sum(-1, keepdims=True) - 2 * product
    square = jnp.maximum(square + jnp.square(rows).sum(-1), 1e-12)
    return bias - jnp.sqrt(square)

  def expect(params: PyTree, logits: Array) -> Array:
    rows = table(params)
    mean = lambda row: jax.nn.softmax(row) @ rows
    return by_parts(mean, logits, len(rows))

  return Ends(
    table,
    lambda params, ids: jnp.take(table(params), ids, axis=0),
    round_,
    expect,
  )
