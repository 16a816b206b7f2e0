"""The transformer: one network for every method (Vaswani et al. 2017).

Outside this folder it is seen as a `Denoiser` only.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from textdiffusion.core.keys import stream
from textdiffusion.core.types import (
  Array,
  Condition,
  Denoiser,
  Features,
  Key,
  Mixture,
  PyTree,
  Time,
  UserError,
  X,
)
from textdiffusion.nn import cache as caches
from textdiffusion.nn import layout
from textdiffusion.nn.attention import attention_mask, resolve
from textdiffusion.nn.blocks import Block, Context, TransformerConfig
from textdiffusion.nn.chunks import by_chunks
from textdiffusion.nn.latent import Projection, ends
from textdiffusion.nn.layers import NORMS, Dense, TimeEmbedding, product

_REMAT = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'offload': jax.checkpoint_policies.offload_dot_with_no_batch_dims(
    'device', 'pinned_host'
  ),
}


class Transformer(nn.Module):
  """Ids [B, L], weights [B, L, K] or `Mixture` [B, L, k] -> float32 of
  [B, L, num_outputs]; of latent methods [B, L, features] -> [B, L, D].

  num_outputs: 0 leaves the d_model numbers of the last layer, as an encoder.
  """

  config: TransformerConfig
  num_states: int
  num_outputs: int
  features: Features | None = None

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
    x, table = self._inputs(ids)
    ids = jnp.zeros((batch, length), jnp.int32)
    context = self._context(ids, t, condition, start)
    if cfg.max_positions:
      x = x + self._positions(context.positions)
    if cfg.time == 'additive':
      assert context.time is not None
      x = x + context.time
    x, cache = self._layers(x, context, cache)
    x = NORMS[cfg.norm](dtype=cfg.compute_dtype, name='norm')(x)
    return self._outputs(x, table).astype(jnp.float32), cache

  def _inputs(self, ids: Any) -> tuple[Array, Array]:
    """-> [B, L, d_model], and the table of embeddings."""
    cfg, features = self.config, self.features
    std, width = cfg.d_model**-0.5, cfg.d_model
    if features is not None:
      std, width = features.std, features.size
    normal = nn.initializers.normal(std)
    table = self.param('embedding', normal, (self.num_states, width))
    laid = lambda x: layout.rows(x.astype(cfg.compute_dtype))
    if features is not None:
      width = cfg.d_model
      project = Projection(width, width, cfg.compute_dtype, name='inlet')
      return laid(project(laid(ids))), table
    table = layout.gathered(table, (*self.path, 'embedding'))
    if isinstance(ids, Mixture):
      parts = jnp.take(table, ids.ids, axis=0)
      return laid(jnp.einsum('blk,blkd->bld', ids.weights, parts)), table
    if jnp.issubdtype(ids.dtype, jnp.integer):
      return laid(jnp.take(table, ids, axis=0)), table
    return laid(product(laid(ids), table.astype(cfg.compute_dtype))), table

  def _positions(self, positions: Array) -> Array:
    """[B, L] -> [B, L, d_model], learnt."""
    cfg = self.config
    normal = nn.initializers.normal(cfg.d_model**-0.5)
    shape = (cfg.max_positions, cfg.d_model)
    table = self.param('positions', normal, shape)
    table = layout.gathered(table, (*self.path, 'positions'))
    return layout.rows(jnp.take(table.astype(cfg.compute_dtype), positions, 0))

  def _outputs(self, x: Array, table: Array) -> Array:
    """[B, L, d_model] -> [B, L, num_outputs]."""
    cfg = self.config
    tokens = lambda x: layout.rows(x, 'tensor')
    if not self.num_outputs:
      return x
    if self.features is not None:
      zeros = nn.initializers.zeros_init()
      self.param('rounding_bias', zeros, (self.num_states,))
    if self.features is not None and self.features.says == 'features':
      size = self.features.size
      return Projection(cfg.d_model, size, cfg.compute_dtype, name='outlet')(x)
    if not cfg.tied:
      # From zero: training begins at the uniform distribution.
      head = Dense(self.num_outputs, False, cfg.compute_dtype, 0.0, name='head')
      return tokens(head(x))
    if self.num_outputs != self.num_states:
      raise UserError(
        f'model.tied=True: the method needs {self.num_outputs} outputs for '
        f'{self.num_states} tokens: --set=model.tied=False'
      )
    return tokens(product(x, table.T.astype(cfg.compute_dtype)))

  def _context(
    self, ids: Array, t: Time, condition: Condition, start: Array | None
  ) -> Context:
    cfg = self.config
    length = ids.shape[1]
    if start is None:
      check_positions(cfg, length)
    positions = condition.positions
    if positions is None:
      first = 0 if start is None else start
      positions = jnp.broadcast_to(first + jnp.arange(length)[None], ids.shape)
    shape = (*ids.shape, cfg.num_heads, cfg.head_size)
    kind = resolve(cfg.attention, cfg.compute_dtype, shape)
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
      size = cfg.time_size or cfg.d_model
      time = TimeEmbedding(size, dtype=cfg.compute_dtype, name='time')(t)
    memory = condition.memory
    if cfg.encoder_layers and memory is None:
      raise UserError(
        f'model.encoder_layers={cfg.encoder_layers}: an encoder needs a '
        'source; use data.rows=separate, or 0 layers'
      )
    sources = condition.source_segments
    return Context(
      positions,
      mask,
      condition.segments,
      time,
      None if memory is None else memory.astype(cfg.compute_dtype),
      None if sources is None else (sources > 0)[:, None, None],
      start,
      condition.dropout_key is not None,
    )

  def _layers(
    self, x: Array, context: Context, cache: PyTree
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


def check_positions(config: TransformerConfig, length: int) -> None:
  """Raises UserError where a row is longer than the table of positions."""
  if 0 < config.max_positions < length:
    raise UserError(
      f'model.max_positions={config.max_positions}: a row has {length} tokens: '
      'raise it to the longest row, or set it to 0'
    )


def build_denoiser(
  config: TransformerConfig,
  num_states: int,
  num_outputs: int | None = None,
  features: Features | None = None,
) -> Denoiser:
  """The network as pure functions: float32 logits over `num_states`, or
  `num_outputs` numbers a token where a method asks for others, or features to
  features of a latent method."""
  width = num_outputs or num_states
  network = Transformer(config, num_states, width, features)
  reader = dataclasses.replace(
    config,
    num_layers=max(config.encoder_layers, 1),
    time='none',
    time_size=None,
    attend='bidirectional',
    block_size=0,
    encoder_layers=0,
  )
  encoder = Transformer(reader, num_states, 0)

  def init(key: Key) -> PyTree:
    length = max(4, config.block_size)
    shape = (1, min(length, config.max_positions or length))
    ids = jnp.zeros(shape, jnp.int32)
    source = {}
    condition = Condition()
    if config.encoder_layers:
      source = {
        'encoder': encoder.init(stream(key, 'encoder'), ids, 0.0)['params']
      }
      condition = Condition(memory=jnp.zeros((*shape, config.d_model)))
    if features is not None:
      ids = jnp.zeros((*shape, features.inputs))
    return {**network.init(key, ids, 0.5, condition)['params'], **source}

  def encode(params: PyTree, condition: Condition) -> Array:
    segments = condition.source_segments
    seen = Condition(segments, dropout_key=condition.dropout_key)
    out: Any = encoder.apply(
      {'params': params['encoder']},
      condition.source,
      0.0,
      seen,
      rngs=dropout(condition),
    )
    return out[0]

  def apply(params: PyTree, x: Array, t: Time, condition: Condition) -> Array:
    out: Any = network.apply(
      {'params': params}, x, t, condition, rngs=dropout(condition)
    )
    return out[0]

  body = Transformer(config, num_states, 0)

  def each(
    params: PyTree,
    x: X,
    t: Time,
    condition: Condition,
    said: Callable[[Array, PyTree], PyTree],
    rows: PyTree,
  ) -> PyTree:
    """As `apply`, but for the products with the head."""
    out: Any = body.apply(
      {'params': params}, x, t, condition, rngs=dropout(condition)
    )
    dtype = config.compute_dtype
    if config.tied:
      table = layout.gathered(params['embedding'], ('embedding',))
      kernel = table.T.astype(dtype)
    else:
      kernel = params['head']['kernel'].astype(dtype)
      kernel = layout.gathered(kernel, ('head', 'kernel'))

    def read(hidden: Array, rows: PyTree) -> PyTree:
      raw = product(hidden.astype(dtype), kernel)
      return said(layout.rows(raw, 'tensor').astype(jnp.float32), rows)

    return by_chunks(read, out[0], rows, config.loss_chunk)

  def init_cache(rows: int, length: int) -> PyTree:
    check_positions(config, length)
    shape = (rows, length, config.kv_heads, config.head_size)
    if config.is_scanned:
      return caches.empty((config.num_layers, *shape), config.compute_dtype)
    return tuple(
      caches.empty(shape, config.compute_dtype)
      for _ in range(config.num_layers)
    )

  def decode(
    params: PyTree,
    ids: Array,
    cache: PyTree,
    start: Array,
    condition: Condition = Condition(),  # noqa: B008 an immutable tuple
  ) -> tuple[Array, PyTree]:
    # Segments and positions are of whole rows, not of what is decoded.
    source = Condition(
      memory=condition.memory, source_segments=condition.source_segments
    )
    out: Any = network.apply({'params': params}, ids, 0.0, source, cache, start)
    return out

  def dropout(condition: Condition) -> dict[str, Key]:
    key = condition.dropout_key
    return {} if key is None else {'dropout': key}

  is_causal = config.attend == 'causal'
  sides: dict[str, Any] = {'table': lambda params: params['embedding']}
  if features is not None:
    sides = ends(features)._asdict()
  return Denoiser(
    init,
    apply,
    init_cache if is_causal else None,
    decode if is_causal else None,
    config.time != 'none',
    num_states,
    **sides,
    encode=encode if config.encoder_layers else None,
    each=each if config.loss_chunk and features is None else None,
  )


def num_params(denoiser: Denoiser) -> int:
  """How many numbers it learns."""
  shapes = jax.eval_shape(denoiser.init, jax.random.key(0))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def flops_per_token(
  config: TransformerConfig,
  num_outputs: int,
  length: int,
  features: Features | None = None,
  source_length: int = 0,
) -> float:
  """Forward model FLOPs of one token in a row of `length`, its share of a
  source of `source_length` included.

  A multiply-add is 2. Matrix products only: no gathers, norms or softmax. Half
  of the attention scores count where the network is causal.
  """
  d, kv = config.d_model, config.kv_heads * config.head_size
  attention = 2 * d * d + 2 * d * kv
  mlp = config.mlp_matrices * d * config.hidden
  seen = length / 2 if config.attend == 'causal' else length
  per_layer = 2 * (attention + mlp) + 4 * d * seen
  total = config.num_layers * per_layer
  if config.encoder_layers:
    share = source_length / length
    itself = 2 * (attention + mlp) + 4 * d * source_length
    total += share * config.encoder_layers * itself
    cross = 4 * d * d + 4 * d * source_length + 4 * d * kv * share
    total += config.num_layers * cross
  sides = 2 * d * num_outputs
  if features is not None:  # two matrices at either end
    sides += 2 * d * (features.inputs + d)
    if features.says == 'features':
      sides = 2 * d * (features.inputs + 2 * d + features.size)
  return total + sides
