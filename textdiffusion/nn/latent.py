"""Token embeddings, and the input and output layers of feature networks.

As in Diffusion-LM (Li et al. 2022), there is a Linear, tanh, Linear projection
on both sides of the blocks, and the embeddings are also used to compute logits
from features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.numerics import by_parts, match_ranks, pytree, static
from textdiffusion.core.types import Array, Features, PyTree
from textdiffusion.nn import layout
from textdiffusion.nn.layers import Dense


class Projection(nn.Module):
  """Two dense layers with tanh between them.

  Attributes:
    hidden: width of the hidden layer.
    features: width of the output.
    dtype: type of the computation.
  """

  hidden: int
  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '... in']) -> Float[Array, '... features']:
    dense = lambda size, name: Dense(size, True, self.dtype, name=name)
    x = jnp.tanh(dense(self.hidden, 'up')(x))
    return dense(self.features, 'out')(x)


@pytree
class IdEmbedder:
  """The embeddings of a network that takes ids.

  Attributes:
    table: embedding table.
  """

  table: Float[Array, 'K D']

  @property
  def is_input(self) -> bool:
    return False

  @property
  def self_condition(self) -> bool:
    return False

  def embed(self, ids: Int[Array, '...']) -> Float[Array, '... D']:
    return jnp.take(self.table, ids, axis=0)

  def logits(self, features: Float[Array, '... D']) -> Float[Array, '... K']:
    raise TypeError('a network over ids has no logits of features')

  def expected(self, logits: Float[Array, '... K']) -> Float[Array, '... D']:
    return _expected(self.table, logits)


@pytree
class FeatureEmbedder:
  """The learnt embeddings of a network that takes features.

  Attributes:
    params: the parameters `embedding` and `rounding_bias` of the network.
    features: how embeddings are normalised and logits computed from features.
    origin: vector that is subtracted from every embedding, or 0.
  """

  params: PyTree
  features: Features = static()
  origin: Float[Array, ' D'] | float = 0.0

  @property
  def is_input(self) -> bool:
    return True

  @property
  def self_condition(self) -> bool:
    return self.features.self_condition

  @property
  def table(self) -> Float[Array, 'K D']:
    return self._from_origin(self._raw())

  def embed(self, ids: Int[Array, '...']) -> Float[Array, '... D']:
    return self._from_origin(jnp.take(self._raw(), ids, axis=0))

  def logits(self, features: Float[Array, '... D']) -> Float[Array, '... K']:
    rows = self._raw()
    x, origin, bias = match_ranks(
      features, self.origin, self.params['rounding_bias']
    )
    x = x + origin
    product = x @ rows.T
    if self.features.rounding == 'dot':
      return product + bias
    square = jnp.square(x).sum(-1, keepdims=True) - 2 * product
    square, length = match_ranks(square, jnp.square(rows).sum(-1))
    square = jnp.maximum(square + length, 1e-12)
    return bias - jnp.sqrt(square)

  def expected(self, logits: Float[Array, '... K']) -> Float[Array, '... D']:
    return self._from_origin(_expected(self._raw(), logits))

  def _from_origin(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
    """Returns vectors relative to the origin."""
    x, origin = match_ranks(x, self.origin)
    return x - origin

  def _raw(self) -> Float[Array, 'K D']:
    """Returns the embeddings, normalised as set in `features`."""
    # The table is small and used at both ends, so every device holds it whole.
    raw = layout.constrained(self.params['embedding'], None, None)
    norm = self.features.norm
    if norm == 'none':
      return raw
    if norm == 'layer':
      raw = raw - raw.mean(-1, keepdims=True)
    square = jnp.square(raw)
    total = square.sum if norm == 'unit' else square.mean
    return raw / jnp.maximum(jnp.sqrt(total(-1, keepdims=True)), 1e-6)


def _expected(
  table: Float[Array, 'K D'], logits: Float[Array, '... K']
) -> Float[Array, '... D']:
  """Returns the mean embedding under softmax(logits)."""
  mean = lambda row: jax.nn.softmax(row) @ table
  return by_parts(mean, logits, len(table))
