"""The layers of the transformer and their configuration.

Pre-norm blocks with rotary positions (Vaswani et al. 2017; Su et al. 2021);
time enters additively or by adaLN-zero (Peebles & Xie 2023).
"""

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import Array, UserError
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

_UNROLLED = 8  # up to here XLA schedules unrolled layers better than a loop


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes and choices; None takes the usual value.

  num_kv_heads: fewer than num_heads groups the queries. d_ff: 4 d_model, or
  8/3 of it for gated kinds, which have three matrices. mlp_bias: biases of the
  MLP where they differ from use_bias. norm: with or without the mean. time: how
  t enters. time_size: width of the embedding of t that adaLN reads; d_model if
  None, and 128 in the networks of SEDD, MDLM and Duo.
  scan: `auto` unrolls up to 8 layers. remat: what is computed again in the
  backward pass, all or all but the matrix products, which offload keeps in the
  memory of the host.
  dtype: of the computation; parameters, norms, softmax and logits are float32.
  attention: the kernel. encoder_layers: of an encoder of the same width that
  reads a source, which every block then sees (Vaswani et al. 2017); 0 for
  none. loss_chunk: tokens of a row whose logits stand in memory at once in a
  loss; 0 for all of them. max_positions: rows of a learnt table of absolute
  positions that is added to the embeddings, the longest row at most; 0 for
  rotary positions alone, under which a bidirectional network cannot tell the
  places of a row of masks apart.
  """

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
    for name in ('num_layers', 'd_model', 'num_heads'):
      if getattr(self, name) < 1:
        raise UserError(
          f'model.{name}={getattr(self, name)}: must be at least 1'
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
    if not 0 <= self.dropout < 1:
      raise UserError(f'model.dropout={self.dropout}: must be in [0, 1)')
    if self.d_ff is not None and self.d_ff < 1:
      raise UserError(f'model.d_ff={self.d_ff}: must be at least 1, or None')
    if not 0 < self.rope_base < math.inf:
      raise UserError(f'model.rope_base={self.rope_base}: must be above 0')
    for name in ('encoder_layers', 'loss_chunk', 'max_positions'):
      if getattr(self, name) < 0:
        raise UserError(
          f'model.{name}={getattr(self, name)}: must be at least 0'
        )
    if self.time_size is not None and self.time_size < 1:
      raise UserError(f'model.time_size={self.time_size}: must be at least 1')
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
    """Width of the MLP; if gated, a multiple of 64 near 8/3 d_model."""
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
  def compute_dtype(self) -> Any:
    return jnp.dtype(self.dtype)


KeysValues = tuple[Array, Array]


@pytree
class Context:
  """What every layer takes beside its input.

  Attributes:
    positions: [B, n], also the places of the tokens in the cache.
    mask: [B or 1, 1, n, S], or None where the kernel takes `structure` and
      `segments`, or where every token attends to every token.
    segments: [B, n] or None.
    structure: which tokens attend to which.
    time: [B, 1 or n, T] or None.
    memory: [B, S, D] of a source, or None.
    memory_mask: [B, 1, 1, S] or None.
    is_training: whether dropout acts.
  """

  positions: Array
  mask: Array | None
  segments: Array | None
  structure: Structure
  time: Array | None
  memory: Array | None
  memory_mask: Array | None
  is_training: bool = static()


class Attention(nn.Module):
  """[B, n, D] -> [B, n, D], and the keys and values of a cache, if any.

  Attributes:
    config: sizes and choices.
    is_cross: whether it attends to the source, whose encoder knows its
      positions.
  """

  config: TransformerConfig
  is_cross: bool = False

  @nn.compact
  def __call__(
    self, x: Array, context: Context, past: KeysValues | None = None
  ) -> tuple[Array, KeysValues | None]:
    cfg = self.config
    batch, length = context.positions.shape
    keys_from = x
    if self.is_cross:
      assert context.memory is not None
      keys_from = context.memory

    def projected(x: Array, name: str, heads: int) -> Array:
      size = heads * cfg.head_size
      dense = Dense(size, cfg.use_bias, cfg.compute_dtype, name=name)
      x = dense(x).reshape(batch, -1, heads, cfg.head_size)
      # Queries stay with their tokens; keys and values go to every shard.
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
    # Of the splash kernel a call with a mask or a cache makes no use.
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
  """Attention and MLP, each with its residual; x: [B, L, D]."""

  config: TransformerConfig

  @nn.compact
  def __call__(
    self, x: Array, context: Context, past: KeysValues | None
  ) -> tuple[Array, KeysValues | None]:
    cfg = self.config
    drop = nn.Dropout(cfg.dropout, deterministic=not context.is_training)
    shift, gate = self._modulation(context)

    def residual(x: Array, branch: Array, index: int) -> Array:
      branch = drop(branch)
      x = x + (branch if gate is None else branch * gate[index])
      return layout.rows(x)

    def normed(x: Array, name: str, index: int) -> Array:
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

  def _modulation(self, context: Context) -> tuple[Any, Any]:
    """adaLN-zero: (shift, scale) of each norm and gates of each branch."""
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
