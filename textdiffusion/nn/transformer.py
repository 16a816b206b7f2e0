"""The transformer: one network for every method (Vaswani et al. 2017).

Pre-norm blocks with rotary positions; time enters additively or by adaLN-zero
(Peebles & Xie 2023). Outside this folder it is seen as a `Denoiser` only.
"""

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from textdiffusion.core.types import (
  Array,
  Condition,
  Denoiser,
  Key,
  Mixture,
  PyTree,
  Time,
  UserError,
)
from textdiffusion.nn import cache as caches
from textdiffusion.nn.attention import (
  Attend,
  Implementation,
  attend,
  attention_mask,
  resolve,
  splash,
  static_mask,
)
from textdiffusion.nn.layers import MLP, Dense, RMSNorm, TimeEmbedding, rotate

_UNROLLED = 8  # up to here XLA schedules unrolled layers better than a loop
_REMAT = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes and choices; None takes the usual value.

  num_kv_heads: fewer than num_heads groups the queries. d_ff: 4 d_model, or
  8/3 of it for SwiGLU, which has three matrices. time: how t enters.
  attend: who sees whom; block_size is of block_causal. scan: `auto` unrolls up
  to 8 layers. remat: what is computed again in the backward pass, all or all
  but the matrix products. dtype: of the computation; parameters, norms,
  softmax and logits are float32. attention: the kernel.
  """

  num_layers: int = 6
  d_model: int = 256
  num_heads: int = 8
  num_kv_heads: int | None = None
  d_ff: int | None = None
  mlp: Literal['gelu', 'swiglu'] = 'swiglu'
  qk_norm: bool = True
  use_bias: bool = False
  tied: bool = False
  dropout: float = 0.0
  time: Literal['none', 'additive', 'adaln'] = 'none'
  attend: Attend = 'bidirectional'
  block_size: int = 0
  rope_base: float = 10_000.0
  scan: Literal['auto', 'scan', 'unroll'] = 'auto'
  remat: Literal['none', 'full', 'dots'] = 'none'
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  attention: Implementation = 'auto'

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
    if (self.attend == 'block_causal') != (self.block_size > 0):
      raise UserError(
        f'model.block_size={self.block_size} with model.attend='
        f'{self.attend!r}: block_causal needs a size, the others none'
      )

  @property
  def kv_heads(self) -> int:
    return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

  @property
  def head_size(self) -> int:
    return self.d_model // self.num_heads

  @property
  def hidden(self) -> int:
    """Width of the MLP; of SwiGLU a multiple of 64 near 8/3 d_model."""
    if self.d_ff is not None:
      return self.d_ff
    if self.mlp == 'gelu':
      return 4 * self.d_model
    return max(64, round(8 * self.d_model / 3 / 64) * 64)

  @property
  def is_scanned(self) -> bool:
    if self.scan == 'auto':
      return self.num_layers > _UNROLLED
    return self.scan == 'scan'

  @property
  def compute_dtype(self) -> Any:
    return jnp.dtype(self.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Context:
  """What every layer sees. time: [B, 1 or L, D] or None."""

  positions: Array
  mask: Array | None
  segments: Array | None
  time: Array | None
  start: Array | None  # of the new tokens in the cache
  is_training: bool = dataclasses.field(metadata={'static': True})


class Attention(nn.Module):
  """[B * L, D] -> [B * L, D], and the cache it extended, if any."""

  config: TransformerConfig

  @nn.compact
  def __call__(
    self, x: Array, context: _Context, cache: caches.Cache | None
  ) -> tuple[Array, caches.Cache | None]:
    cfg = self.config
    batch, length = context.positions.shape
    shaped = lambda name, heads: Dense(
      heads * cfg.head_size, cfg.use_bias, cfg.compute_dtype, name=name
    )(x).reshape(batch, length, heads, cfg.head_size)
    q, k = shaped('q', cfg.num_heads), shaped('k', cfg.kv_heads)
    v = shaped('v', cfg.kv_heads)
    if cfg.qk_norm:
      q = RMSNorm(dtype=cfg.compute_dtype, name='q_norm')(q)
      k = RMSNorm(dtype=cfg.compute_dtype, name='k_norm')(k)
    q = rotate(q, context.positions, cfg.rope_base)
    k = rotate(k, context.positions, cfg.rope_base)
    kind = resolve(cfg.attention, q.dtype, length, cfg.head_size)
    if cache is not None:
      assert context.start is not None
      cache = caches.extend(cache, k, v, context.start)
      mask = caches.visible(cache.k.shape[1], length, context.start)
      out = attend(q, cache.k, cache.v, mask)
    elif kind == 'splash' and context.mask is None:
      seen = static_mask(length, cfg.attend, cfg.block_size)
      interpret = jax.default_backend() != 'tpu'
      out = splash(q, k, v, context.segments, seen, interpret)
    else:
      out = attend(q, k, v, context.mask, 'xla' if kind == 'splash' else kind)
    out = Dense(
      cfg.d_model,
      cfg.use_bias,
      cfg.compute_dtype,
      1 / (2 * cfg.num_layers),
      name='out',
    )(out.reshape(batch * length, -1))
    return out, cache


class Block(nn.Module):
  """Attention and MLP, each with its residual; x: [B * L, D]."""

  config: TransformerConfig

  @nn.compact
  def __call__(
    self, x: Array, context: _Context, cache: caches.Cache | None
  ) -> tuple[Array, caches.Cache | None]:
    cfg = self.config
    batch, length = context.positions.shape
    drop = nn.Dropout(cfg.dropout, deterministic=not context.is_training)
    shift, gate = self._modulation(context)

    def residual(x: Array, branch: Array, index: int) -> Array:
      branch = drop(branch)
      if gate is None:
        return x + branch
      rows = branch.reshape(batch, length, -1) * gate[index]
      return x + rows.reshape(batch * length, -1)

    def normed(x: Array, name: str, index: int) -> Array:
      x = RMSNorm(dtype=cfg.compute_dtype, name=name)(x)
      if shift is None:
        return x
      rows = x.reshape(batch, length, -1)
      move, scale = shift[index]
      return (rows * (1 + scale) + move).reshape(batch * length, -1)

    branch, cache = Attention(cfg, name='attention')(
      normed(x, 'attention_norm', 0), context, cache
    )
    x = residual(x, branch, 0)
    branch = MLP(
      cfg.hidden,
      cfg.mlp,
      cfg.use_bias,
      cfg.compute_dtype,
      1 / (2 * cfg.num_layers),
      name='mlp',
    )(normed(x, 'mlp_norm', 1))
    return residual(x, branch, 1), cache

  def _modulation(self, context: _Context) -> tuple[Any, Any]:
    """adaLN-zero: (shift, scale) of both norms and gates of both branches."""
    cfg = self.config
    if cfg.time != 'adaln':
      return None, None
    assert context.time is not None
    time = nn.silu(context.time)
    flat = Dense(6 * cfg.d_model, True, cfg.compute_dtype, 0.0, name='adaln')(
      time.reshape(-1, time.shape[-1])
    )
    parts = jnp.split(flat.reshape(*time.shape[:2], -1), 6, axis=-1)
    return [(parts[0], parts[1]), (parts[2], parts[3])], parts[4:]


class Transformer(nn.Module):
  """Ids [B, L], weights [B, L, K] or `Mixture` [B, L, k] -> float32 of
  [B, L, num_outputs]."""

  config: TransformerConfig
  num_states: int
  num_outputs: int

  @nn.compact
  def __call__(
    self,
    ids: Array | Mixture,
    t: Time,
    condition: Condition = Condition(),  # noqa: B008 an immutable tuple
    cache: PyTree = None,
    start: Array | None = None,
  ) -> tuple[Array, PyTree]:
    cfg = self.config
    batch, length = jax.tree.leaves(ids)[0].shape[:2]
    table = self.param(
      'embedding',
      nn.initializers.normal(cfg.d_model**-0.5),
      (self.num_states, cfg.d_model),
    )
    if isinstance(ids, Mixture):
      parts = jnp.take(table, ids.ids, axis=0)
      x = jnp.einsum('blk,blkd->bld', ids.weights, parts)
      x = x.reshape(batch * length, -1).astype(cfg.compute_dtype)
      ids = jnp.zeros((batch, length), jnp.int32)
    elif jnp.issubdtype(ids.dtype, jnp.integer):
      x = jnp.take(table, ids.reshape(-1), axis=0).astype(cfg.compute_dtype)
    else:  # weights of the tokens
      weights = ids.reshape(batch * length, -1).astype(cfg.compute_dtype)
      x = weights @ table.astype(cfg.compute_dtype)
      ids = jnp.zeros((batch, length), jnp.int32)
    context = self._context(ids, t, condition, start)
    if cfg.time == 'additive':
      assert context.time is not None
      rows = x.reshape(batch, length, -1) + context.time
      x = rows.reshape(batch * length, -1)
    x, cache = self._layers(x, context, cache)
    x = RMSNorm(dtype=cfg.compute_dtype, name='norm')(x)
    if cfg.tied:
      if self.num_outputs != self.num_states:
        raise UserError(
          f'model.tied=True: the method needs {self.num_outputs} outputs for '
          f'{self.num_states} tokens: --set=model.tied=False'
        )
      logits = x @ table.T.astype(cfg.compute_dtype)
    else:
      # From zero: training begins at the uniform distribution.
      logits = Dense(
        self.num_outputs, False, cfg.compute_dtype, 0.0, name='head'
      )(x)
    return logits.astype(jnp.float32).reshape(batch, length, -1), cache

  def _context(
    self, ids: Array, t: Time, condition: Condition, start: Array | None
  ) -> _Context:
    cfg = self.config
    length = ids.shape[1]
    positions = condition.positions
    if positions is None:
      first = 0 if start is None else start
      positions = jnp.broadcast_to(first + jnp.arange(length)[None], ids.shape)
    kind = resolve(cfg.attention, cfg.compute_dtype, length, cfg.head_size)
    mask = None
    if start is None and (kind != 'splash' or condition.mask is not None):
      mask = attention_mask(
        length,
        cfg.attend,
        cfg.block_size,
        condition.segments,
        condition.mask,
      )
    time = None
    if cfg.time != 'none':
      t = jnp.asarray(t, jnp.float32)
      t = jnp.broadcast_to(t, (ids.shape[0], t.shape[-1] if t.ndim == 2 else 1))
      time = TimeEmbedding(cfg.d_model, dtype=cfg.compute_dtype, name='time')(t)
    return _Context(
      positions,
      mask,
      condition.segments,
      time,
      start,
      condition.dropout_key is not None,
    )

  def _layers(
    self, x: Array, context: _Context, cache: PyTree
  ) -> tuple[Array, PyTree]:
    cfg = self.config
    block: Any = Block
    if cfg.remat != 'none':
      block = nn.remat(
        Block, policy=_REMAT[cfg.remat], prevent_cse=not cfg.is_scanned
      )
    if cfg.is_scanned:
      scanned = nn.scan(
        block,
        variable_axes={'params': 0},
        split_rngs={'params': True, 'dropout': True},
        in_axes=(nn.broadcast, 0),
        out_axes=0,
        length=cfg.num_layers,
      )
      return scanned(cfg, name='layers')(x, context, cache)
    fresh = []
    for i in range(cfg.num_layers):
      own = None if cache is None else cache[i]
      x, own = block(cfg, name=f'layers_{i}')(x, context, own)
      fresh.append(own)
    return x, None if cache is None else tuple(fresh)


def build_denoiser(
  config: TransformerConfig, num_states: int, num_outputs: int | None = None
) -> Denoiser:
  """The network as pure functions: float32 logits over `num_states`, or
  `num_outputs` numbers a token where a method asks for others."""
  network = Transformer(config, num_states, num_outputs or num_states)

  def init(key: Key) -> PyTree:
    ids = jnp.zeros((1, max(4, config.block_size)), jnp.int32)
    return network.init(key, ids, 0.5)['params']

  def apply(params: PyTree, x: Array, t: Time, condition: Condition) -> Array:
    rngs = {}
    if condition.dropout_key is not None:
      rngs['dropout'] = condition.dropout_key
    out: Any = network.apply({'params': params}, x, t, condition, rngs=rngs)
    return out[0]

  def init_cache(rows: int, length: int) -> PyTree:
    shape = (rows, length, config.kv_heads, config.head_size)
    if config.is_scanned:
      return caches.empty((config.num_layers, *shape), config.compute_dtype)
    return tuple(
      caches.empty(shape, config.compute_dtype)
      for _ in range(config.num_layers)
    )

  def decode(
    params: PyTree, ids: Array, cache: PyTree, start: Array
  ) -> tuple[Array, PyTree]:
    out: Any = network.apply(
      {'params': params}, ids, 0.0, cache=cache, start=start
    )
    return out

  is_causal = config.attend == 'causal'
  return Denoiser(
    init,
    apply,
    init_cache if is_causal else None,
    decode if is_causal else None,
    config.time != 'none',
    num_states,
    lambda params: params['embedding'],
  )


def num_params(denoiser: Denoiser) -> int:
  """How many numbers it learns."""
  shapes = jax.eval_shape(denoiser.init, jax.random.key(0))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def flops_per_token(
  config: TransformerConfig, num_outputs: int, length: int
) -> float:
  """Forward model FLOPs of one token in a row of `length`.

  A multiply-add is 2. Matrix products only: no gathers, norms or softmax. Half
  of the attention scores count where the network is causal.
  """
  d, kv = config.d_model, config.kv_heads * config.head_size
  attention = 2 * d * d + 2 * d * kv
  mlp = (3 if config.mlp == 'swiglu' else 2) * d * config.hidden
  seen = length / 2 if config.attend == 'causal' else length
  per_layer = 2 * (attention + mlp) + 4 * d * seen
  return config.num_layers * per_layer + 2 * d * num_outputs
