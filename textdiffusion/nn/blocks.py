"""The layers of the transformer and their configuration.

Pre-norm blocks with rotary positions (Vaswani et al. 2017; Su et al. 2021). The
time is added to the input or enters by adaLN-zero (Peebles & Xie 2023).
"""

import dataclasses
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import Array, UserError
from textdiffusion.core.validation import check_fields
from textdiffusion.nn import layout
from textdiffusion.nn.attention import (
  Implementation,
  attend,
  resolve,
  splash,
)
from textdiffusion.nn.layers import (
  MLP,
  NORMS,
  Dense,
  MLPKind,
  RMSNorm,
  rotate,
)
from textdiffusion.nn.network import Structure, write_at

_UNROLLED = 8  # Up to this depth XLA schedules unrolled layers better.


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes and options of the transformer.

  Attributes:
    num_layers: number of blocks.
    d_model: width of the hidden states.
    num_heads: attention heads.
    num_kv_heads: heads of keys and values; fewer than `num_heads` share them
      among groups of queries. None uses `num_heads`.
    d_ff: width of the MLP. None uses 4 d_model, or 8/3 d_model for gated kinds,
      which have three matrices.
    mlp: kind of the MLP, see `MLP`.
    qk_norm: whether queries and keys are normalised.
    use_bias: whether dense layers have biases.
    tied: whether the head uses the embedding table.
    dropout: dropout rate.
    time: how the time enters: not at all, added to the input, or by adaLN.
    rope_base: base of the rotary frequencies.
    scan: whether layers run in a loop (`scan`) or unrolled; `auto` unrolls up
      to 8 layers.
    remat: what the backward pass recomputes: nothing, everything (`full`), or
      everything except matrix products (`dots`), which `offload` stores in the
      memory of the host.
    dtype: type of the computation; parameters, norms, softmax and logits are
      float32.
    attention: the attention kernel.
    encoder_layers: layers of an encoder of the same width that reads a source,
      to which every block then attends (Vaswani et al. 2017); 0 for none.
    loss_chunk: tokens of a row whose logits are in memory at the same time in a
      loss; 0 for all.
    norm: RMSNorm, or LayerNorm, which also subtracts the mean.
    mlp_bias: whether the MLP has biases; None uses `use_bias`.
    time_size: width of the time embedding that adaLN reads; None uses d_model.
      The networks of SEDD, MDLM and Duo use 128.
    max_positions: size of a learnt table of absolute positions that is added to
      the embeddings, at least the longest row; 0 uses rotary positions only.
      With those alone, a bidirectional network computes the same output at all
      places of a row that consists of masks.
  """

  config_group = 'model'

  num_layers: int = 6
  d_model: int = 256
  num_heads: int = 8
  num_kv_heads: int | None = None
  d_ff: int | None = None
  mlp: MLPKind = 'swiglu'
  qk_norm: bool = True
  use_bias: bool = False
  tied: bool = False
  dropout: float = 0.0
  time: Literal['none', 'additive', 'adaln'] = 'none'
  rope_base: float = 10_000.0
  scan: Literal['auto', 'scan', 'unroll'] = 'auto'
  remat: Literal['none', 'full', 'dots', 'offload'] = 'none'
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  attention: Implementation = 'auto'
  encoder_layers: int = 0
  loss_chunk: int = 0
  norm: Literal['rms', 'layer'] = 'rms'
  mlp_bias: bool | None = None
  time_size: int | None = None
  max_positions: int = 0

  def __post_init__(self) -> None:
    check_fields(
      self,
      num_layers='[1, inf)',
      d_model='[1, inf)',
      num_heads='[1, inf)',
      d_ff='[1, inf)',
      dropout='[0, 1)',
      rope_base='(0, inf)',
      encoder_layers='[0, inf)',
      loss_chunk='[0, inf)',
      time_size='[1, inf)',
      max_positions='[0, inf)',
    )
    if self.d_model % (2 * self.num_heads):
      raise UserError(
        f'model.d_model={self.d_model} must be a multiple of twice '
        f'model.num_heads={self.num_heads}'
      )
    if self.kv_heads < 1 or self.num_heads % self.kv_heads:
      raise UserError(
        f'model.num_kv_heads={self.num_kv_heads} must divide '
        f'model.num_heads={self.num_heads}'
      )
    if self.time_size is not None and self.time != 'adaln':
      raise UserError(
        f'model.time_size={self.time_size} with model.time={self.time}: only '
        'adaLN reads an embedding of another width; set model.time=adaln, or '
        'model.time_size=None'
      )

  @property
  def kv_heads(self) -> int:
    return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

  @property
  def head_size(self) -> int:
    return self.d_model // self.num_heads

  @property
  def hidden(self) -> int:
    """Width of the MLP; by default of gated kinds, a multiple of 64."""
    if self.d_ff is not None:
      return self.d_ff
    if self.mlp == 'gelu':
      return 4 * self.d_model
    return max(64, round(8 * self.d_model / 3 / 64) * 64)

  @property
  def mlp_matrices(self) -> int:
    return 2 if self.mlp == 'gelu' else 3

  @property
  def is_scanned(self) -> bool:
    if self.scan == 'auto':
      return self.num_layers > _UNROLLED
    return self.scan == 'scan'

  @property
  def compute_dtype(self) -> jnp.dtype:
    return jnp.dtype(self.dtype)


KeysValues = tuple[Float[Array, 'B S G d'], Float[Array, 'B S G d']]


@pytree
class Context:
  """The inputs of every layer besides its hidden states.

  Attributes:
    positions: positions of the tokens, and their places in the cache.
    mask: attention mask over N keys; None if the kernel takes `structure` and
      `segments`, or if every token attends to every token.
    segments: document numbers, or None.
    structure: which tokens attend to which.
    time: time embedding, or None.
    memory: output of the encoder, or None.
    memory_mask: mask of the memory, or None.
    is_training: whether dropout is on.
  """

  positions: Int[Array, 'B n']
  mask: Bool[Array, '#B 1 n N'] | None
  segments: Int[Array, 'B n'] | None
  structure: Structure
  time: Float[Array, ' B #n T'] | None
  memory: Float[Array, 'B S D'] | None
  memory_mask: Bool[Array, 'B 1 1 S'] | None
  is_training: bool = static()


class Attention(nn.Module):
  """Attention.

  It also returns the updated keys and values of the cache, if there is one.

  Attributes:
    config: sizes and options.
    is_cross: whether it attends to the source. Cross-attention has no rotary
      positions, as the encoder has applied its own.
  """

  config: TransformerConfig
  is_cross: bool = False

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B n D'],
    context: Context,
    past: KeysValues | None = None,
  ) -> tuple[Float[Array, 'B n D'], KeysValues | None]:
    cfg = self.config
    batch, length = context.positions.shape
    keys_from = x
    if self.is_cross:
      assert context.memory is not None
      keys_from = context.memory

    def projected(
      x: Float[Array, 'B n D'], name: str, heads: int
    ) -> Float[Array, 'B n H d']:
      size = heads * cfg.head_size
      dense = Dense(size, cfg.use_bias, cfg.compute_dtype, name=name)
      x = dense(x).reshape(batch, -1, heads, cfg.head_size)
      # Queries stay on the shard of their tokens; every shard needs all keys
      # and values.
      tokens = 'sequence' if name == 'q' else None
      return layout.constrained(x, layout.BATCH, tokens, 'tensor', None)

    q = projected(x, 'q', cfg.num_heads)
    k = projected(keys_from, 'k', cfg.kv_heads)
    v = projected(keys_from, 'v', cfg.kv_heads)
    if cfg.qk_norm:
      q = RMSNorm(dtype=cfg.compute_dtype, name='q_norm')(q)
      k = RMSNorm(dtype=cfg.compute_dtype, name='k_norm')(k)
    kind = resolve(cfg.attention, q.dtype, q.shape)
    if not self.is_cross:
      q = rotate(q, context.positions, cfg.rope_base)
      k = rotate(k, context.positions, cfg.rope_base)
    if past is not None:
      k, v = (write_at(a, b, context.positions) for a, b in zip(past, (k, v)))
      past = k, v
    # The splash kernel takes neither a mask nor a cache.
    is_splash = kind == 'splash'
    if self.is_cross:
      mask = context.memory_mask
      out = attend(q, k, v, mask, 'xla' if is_splash else kind)
    elif past is not None:
      out = attend(q, k, v, context.mask)
    elif is_splash and context.mask is None:
      interpret = layout.platform() != 'tpu'
      out = splash(q, k, v, context.segments, context.structure, interpret)
    else:
      out = attend(q, k, v, context.mask, 'xla' if is_splash else kind)
    out = Dense(
      cfg.d_model,
      cfg.use_bias,
      cfg.compute_dtype,
      1 / (2 * cfg.num_layers),
      name='out',
    )(layout.rows(out.reshape(batch, length, -1), 'tensor'))
    return out, past


class Block(nn.Module):
  """One layer: attention and MLP with residuals.

  Attributes:
    config: sizes and options.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(
    self, x: Float[Array, 'B n D'], context: Context, past: KeysValues | None
  ) -> tuple[Float[Array, 'B n D'], KeysValues | None]:
    cfg = self.config
    drop = nn.Dropout(cfg.dropout, deterministic=not context.is_training)
    shift, gate = self._modulation(context)

    def residual(
      x: Float[Array, 'B n D'], branch: Float[Array, 'B n D'], index: int
    ) -> Float[Array, 'B n D']:
      branch = drop(branch)
      x = x + (branch if gate is None else branch * gate[index])
      return layout.rows(x)

    def normed(
      x: Float[Array, 'B n D'], name: str, index: int
    ) -> Float[Array, 'B n D']:
      x = NORMS[cfg.norm](dtype=cfg.compute_dtype, name=name)(x)
      if shift is None:
        return x
      move, scale = shift[index]
      return x * (1 + scale) + move

    branch, past = Attention(cfg, name='attention')(
      normed(x, 'attention_norm', 0), context, past
    )
    x = residual(x, branch, 0)
    if cfg.encoder_layers:
      branch, _ = Attention(cfg, is_cross=True, name='cross')(
        normed(x, 'cross_norm', 2), context
      )
      x = residual(x, branch, 2)
    branch = MLP(
      cfg.hidden,
      cfg.mlp,
      cfg.use_bias if cfg.mlp_bias is None else cfg.mlp_bias,
      cfg.compute_dtype,
      1 / (2 * cfg.num_layers),
      name='mlp',
    )(normed(x, 'mlp_norm', 1))
    return residual(x, branch, 1), past

  def _modulation(
    self, context: Context
  ) -> tuple[list[tuple[Array, Array]] | None, list[Array] | None]:
    """Returns (shift, scale) for each norm and a gate for each branch.

    These are the outputs of adaLN-zero; without it both are None.
    """
    cfg = self.config
    if cfg.time != 'adaln':
      return None, None
    assert context.time is not None
    time = nn.silu(context.time)
    num = 3 if cfg.encoder_layers else 2
    size = 3 * num * cfg.d_model
    modulation = Dense(size, True, cfg.compute_dtype, 0.0, name='adaln')(time)
    parts = jnp.split(layout.rows(modulation), 3 * num, axis=-1)
    moves = [(parts[2 * i], parts[2 * i + 1]) for i in range(num)]
    return moves, parts[2 * num :]
