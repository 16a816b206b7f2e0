"""Dense layers, norms, MLPs, time embedding and rotary positions."""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.types import Array
from textdiffusion.nn import layout


def product(
  x: Float[Array, '... in'], kernel: Float[Array, 'in out']
) -> Float[Array, '... out']:
  """Multiplies by a matrix.

  On CPU the leading axes are merged first. Otherwise the backward pass of a
  [B, L, D] product writes transposed copies, and a whole training step reaches
  0.40 of the matrix peak instead of 0.55 (notes/log.md). If the mesh splits
  tokens, the axes are not merged, because that would gather the tokens.
  """
  if layout.platform() != 'cpu' or layout.size_of('sequence') > 1:
    return x @ kernel
  out = x.reshape(-1, x.shape[-1]) @ kernel
  return out.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
  """A dense layer with float32 parameters.

  Attributes:
    features: width of the output.
    use_bias: whether there is a bias.
    dtype: type of the computation.
    scale: the initial weights have variance scale / in; 0 initialises to zero.
  """

  features: int
  use_bias: bool = False
  dtype: jnp.dtype = jnp.float32
  scale: float = 1.0

  @nn.compact
  def __call__(self, x: Float[Array, '... in']) -> Float[Array, '... features']:
    init = (
      nn.initializers.variance_scaling(self.scale, 'fan_in', 'truncated_normal')
      if self.scale
      else nn.initializers.zeros_init()
    )
    kernel = self.param('kernel', init, (x.shape[-1], self.features))
    kernel = layout.gathered(kernel.astype(self.dtype), (*self.path, 'kernel'))
    x = product(x.astype(self.dtype), kernel)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros_init(), (self.features,))
      x = x + bias.astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
    return x


class RMSNorm(nn.Module):
  """RMSNorm with a learnt scale, computed in float32.

  Attributes:
    eps: small number added to the mean square.
    dtype: type of the output.
  """

  eps: float = 1e-6
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
    scale = self.param('scale', nn.initializers.ones_init(), (x.shape[-1],))
    x = x.astype(jnp.float32)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
    scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
    return (x * scale).astype(self.dtype)


class LayerNorm(nn.Module):
  """LayerNorm with a learnt scale, computed in float32.

  It has no bias, as in the networks of SEDD, MDLM and Duo.

  Attributes:
    eps: small number added to the variance.
    dtype: type of the output.
  """

  eps: float = 1e-5
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: Float[Array, '... D']) -> Float[Array, '... D']:
    scale = self.param('scale', nn.initializers.ones_init(), (x.shape[-1],))
    x = x.astype(jnp.float32)
    x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.eps)
    scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
    return (x * scale).astype(self.dtype)


NORMS = {'rms': RMSNorm, 'layer': LayerNorm}
MLPKind = Literal['gelu', 'swiglu', 'geglu', 'glu']
_GATES = {'swiglu': nn.silu, 'geglu': nn.gelu, 'glu': nn.sigmoid}


class MLP(nn.Module):
  """The MLP of a block.

  Attributes:
    d_ff: width of the hidden layer.
    kind: `gelu`, or gated by SiLU (`swiglu`), GELU (`geglu`) or a sigmoid
      (`glu`) (Shazeer 2020).
    use_bias: whether dense layers have biases.
    dtype: type of the computation.
    out_scale: `scale` of the output layer, see `Dense`.
  """

  d_ff: int
  kind: MLPKind = 'swiglu'
  use_bias: bool = False
  dtype: jnp.dtype = jnp.float32
  out_scale: float = 1.0

  @nn.compact
  def __call__(self, x: Float[Array, 'B L D']) -> Float[Array, 'B L D']:
    d_model = x.shape[-1]
    dense = lambda name: Dense(self.d_ff, self.use_bias, self.dtype, name=name)
    if self.kind == 'gelu':
      x = nn.gelu(dense('up')(x))
    else:
      x = _GATES[self.kind](dense('gate')(x)) * dense('up')(x)
    x = layout.rows(x, 'tensor')
    return Dense(
      d_model, self.use_bias, self.dtype, self.out_scale, name='down'
    )(x)


class TimeEmbedding(nn.Module):
  """Embeds times in [0, 1]: sinusoids and an MLP.

  Attributes:
    features: width of the embedding.
    use_bias: whether dense layers have biases.
    dtype: type of the computation.
    num_frequencies: number of sines, and of cosines.
  """

  features: int
  use_bias: bool = True
  dtype: jnp.dtype = jnp.float32
  num_frequencies: int = 128

  @nn.compact
  def __call__(self, t: Float[Array, '...']) -> Float[Array, '... features']:
    # The frequencies are those for 1,000 discrete steps, so t is scaled.
    exponent = jnp.arange(self.num_frequencies) / self.num_frequencies
    angle = 1000.0 * t[..., None].astype(jnp.float32)
    angle = angle * jnp.exp(-jnp.log(10_000.0) * exponent).reshape(
      (1,) * t.ndim + (-1,)
    )
    x = jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], -1)
    dense = lambda name: Dense(
      self.features, self.use_bias, self.dtype, name=name
    )
    return dense('out')(nn.silu(dense('up')(x)))


def rotate(
  x: Float[Array, 'B L H D'], positions: Int[Array, 'B L'], base: float
) -> Float[Array, 'B L H D']:
  """Applies rotary position embeddings (Su et al. 2021).

  Dimension i is rotated together with dimension i + D / 2.

  Args:
    x: queries or keys.
    positions: positions of the tokens.
    base: base of the frequencies.
  """
  half = x.shape[-1] // 2
  frequency = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = positions[..., None, None].astype(jnp.float32)
  angle = angle * frequency[None, None, None]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  left, right = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = [left * cos - right * sin, right * cos + left * sin]
  return jnp.concatenate(turned, -1).astype(x.dtype)
