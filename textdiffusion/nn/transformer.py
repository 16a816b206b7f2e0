"""The transformer, the network of every method (Vaswani et al. 2017)."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.keys import stream
from textdiffusion.core.types import (
  Array,
  Embedder,
  Features,
  Key,
  Mixture,
  PyTree,
  Time,
  UserError,
  X,
)
from textdiffusion.nn import layout
from textdiffusion.nn.attention import attention_mask, resolve
from textdiffusion.nn.blocks import Block, Context, TransformerConfig
from textdiffusion.nn.latent import FeatureEmbedder, IdEmbedder, Projection
from textdiffusion.nn.layers import NORMS, Dense, TimeEmbedding, product
from textdiffusion.nn.network import (
  Cache,
  Causal,
  CleanNoisy,
  Full,
  Memory,
  Network,
  Structure,
  Traits,
  View,
  cache_mask,
  empty_cache,
)
from textdiffusion.nn.network import Dense as DenseMask

_REMAT = {
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  'offload': jax.checkpoint_policies.offload_dot_with_no_batch_dims(
    'device', 'pinned_host'
  ),
}


class Ends(nn.Module):
  """The parameters before and after the blocks: embeddings and outputs.

  Attributes:
    config: sizes and options.
    num_states: rows of the embedding table, K.
    num_outputs: outputs per token.
    features: settings of token features if noise is continuous, else None.
  """

  config: TransformerConfig
  num_states: int
  num_outputs: int
  features: Features | None = None

  def table(self) -> Float[Array, 'K D']:
    """Returns the embedding parameter."""
    std, width = self.config.d_model**-0.5, self.config.d_model
    if self.features is not None:
      std, width = self.features.std, self.features.size
    normal = nn.initializers.normal(std)
    table = self.param('embedding', normal, (self.num_states, width))
    if self.features is not None:
      return table
    return layout.gathered(table, (*self.path, 'embedding'))

  def outputs(
    self, x: Float[Array, '... D'], table: Float[Array, '...']
  ) -> Float[Array, '... outputs']:
    """Maps hidden states to outputs; the table [K, D] counts if it is tied."""
    cfg = self.config
    tokens = lambda x: layout.rows(x, 'tensor')
    if self.features is not None:
      zeros = nn.initializers.zeros_init()
      self.param('rounding_bias', zeros, (self.num_states,))
      if self.features.predicts == 'features':
        size, dtype = self.features.size, cfg.compute_dtype
        return Projection(cfg.d_model, size, dtype, name='outlet')(x)
    if not cfg.tied:
      # Initialised to zero: training starts from the uniform distribution.
      head = Dense(self.num_outputs, False, cfg.compute_dtype, 0.0, name='head')
      return tokens(head(x))
    if self.num_outputs != self.num_states:
      raise UserError(
        f'model.tied=True: the method needs {self.num_outputs} outputs for '
        f'{self.num_states} tokens: --set=model.tied=False'
      )
    return tokens(product(x, table.T.astype(cfg.compute_dtype)))


class Reader(Ends):
  """Maps hidden states to float32 outputs."""

  @nn.compact
  def __call__(
    self, hidden: Float[Array, '... D']
  ) -> Float[Array, '... outputs']:
    x = hidden.astype(self.config.compute_dtype)
    table = self.table() if self.config.tied else hidden
    return self.outputs(x, table).astype(jnp.float32)


class Body(Ends):
  """Maps the input to hidden states [B, n, d_model].

  The input is ids [B, n], a weight for each state [B, n, K], a
  `Mixture` of k tokens [B, n, k], or features [B, n, D]. The output layer is
  another call; with `num_outputs` = 0 it has no parameters.
  """

  @nn.compact
  def __call__(
    self, x: X | Mixture, t: Time, view: View, cache: Cache | None = None
  ) -> tuple[Float[Array, 'B n D'], Cache | None]:
    cfg = self.config
    shape = jax.tree.leaves(x)[0].shape[:2]
    table = self.table()
    x = self._inputs(x, table)
    context = self._context(shape, t, view, cache)
    if cfg.max_positions:
      x = x + self._positions(context.positions)
    if cfg.time == 'additive':
      assert context.time is not None
      x = x + context.time
    x, cache = self._layers(x, context, cache)
    x = NORMS[cfg.norm](dtype=cfg.compute_dtype, name='norm')(x)
    if self.num_outputs and self.is_initializing():
      self.outputs(x, table)
    return x, cache

  def _inputs(
    self, x: X | Mixture, table: Float[Array, 'K d']
  ) -> Float[Array, 'B n D']:
    """Embeds the input."""
    cfg = self.config
    with_layout = lambda x: layout.rows(x.astype(cfg.compute_dtype))
    if self.features is not None:
      width = cfg.d_model
      project = Projection(width, width, cfg.compute_dtype, name='inlet')
      return with_layout(project(with_layout(x)))
    if isinstance(x, Mixture):
      parts = jnp.take(table, x.ids, axis=0)
      return with_layout(jnp.einsum('blk,blkd->bld', x.weights, parts))
    if jnp.issubdtype(x.dtype, jnp.integer):
      return with_layout(jnp.take(table, x, axis=0))
    mixed = product(with_layout(x), table.astype(cfg.compute_dtype))
    return with_layout(mixed)

  def _positions(self, positions: Int[Array, 'B n']) -> Float[Array, 'B n D']:
    """Embeds positions with a learnt table."""
    cfg = self.config
    normal = nn.initializers.normal(cfg.d_model**-0.5)
    shape = (cfg.max_positions, cfg.d_model)
    table = self.param('positions', normal, shape)
    table = layout.gathered(table, (*self.path, 'positions'))
    return layout.rows(jnp.take(table.astype(cfg.compute_dtype), positions, 0))

  def _context(
    self, shape: tuple[int, int], t: Time, view: View, cache: Cache | None
  ) -> Context:
    """Builds the inputs that all layers share."""
    cfg, structure, positions = self.config, view.structure, view.positions
    length = shape[1]
    if cache is None:
      is_doubled = isinstance(structure, CleanNoisy)
      check_positions(cfg, structure.length if is_doubled else length)
    if positions is None:
      positions = jnp.broadcast_to(jnp.arange(length)[None], shape)
    heads = (*shape, cfg.num_heads, cfg.head_size)
    kind = resolve(cfg.attention, cfg.compute_dtype, heads)
    mask = None
    if cache is not None:
      mask = cache_mask(cache, structure, positions)[:, None]
    elif kind != 'splash' or isinstance(structure, DenseMask):
      mask = attention_mask(length, structure, view.segments)
    if mask is not None:
      structure = Full()  # The mask includes the structure.
    time = None
    if cfg.time != 'none':
      t = jnp.asarray(t, jnp.float32)
      t = jnp.broadcast_to(t, (shape[0], t.shape[-1] if t.ndim == 2 else 1))
      size = cfg.time_size or cfg.d_model
      time = TimeEmbedding(size, dtype=cfg.compute_dtype, name='time')(t)
    if cfg.encoder_layers and view.memory is None:
      raise UserError(
        f'model.encoder_layers={cfg.encoder_layers}: an encoder needs a '
        'source; use data.rows=separate, or 0 layers'
      )
    values = is_token = None
    if view.memory is not None:
      values, is_token = view.memory
      values = values.astype(cfg.compute_dtype)
    return Context(
      positions,
      mask,
      view.segments,
      structure,
      time,
      values,
      None if is_token is None else is_token[:, None, None],
      view.dropout_key is not None,
    )

  def _layers(
    self, x: Float[Array, 'B n D'], context: Context, cache: Cache | None
  ) -> tuple[Float[Array, 'B n D'], Cache | None]:
    """Applies all blocks, in a loop or unrolled."""
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
      past = None if cache is None else (cache.k, cache.v)
      x, past = scanned(cfg, name='layers')(x, context, past)
      return x, cache and cache._replace(k=past[0], v=past[1])
    written = []
    for i in range(cfg.num_layers):
      past = None if cache is None else (cache.k[i], cache.v[i])
      x, past = block(cfg, name=f'layers_{i}')(x, context, past)
      written.append(past)
    if cache is None:
      return x, None
    keys, values = zip(*written)
    return x, cache._replace(k=keys, v=values)


def check_positions(config: TransformerConfig, length: int) -> None:
  """Raises UserError if a row is longer than the table of positions."""
  if 0 < config.max_positions < length:
    raise UserError(
      f'model.max_positions={config.max_positions}: a row has {length} tokens: '
      'raise it to the longest row, or set it to 0'
    )


@dataclasses.dataclass(frozen=True)
class Transformer(Network):
  """The transformer as a `Network`.

  Attributes:
    config: sizes and options.
    num_states: number of input tokens, K.
    num_outputs: outputs per token; None for `num_states`.
    features: settings of token features if noise is continuous. The network
      then takes features, and `features.predicts` selects its output.
  """

  config: TransformerConfig
  num_states: int
  num_outputs: int | None = None
  features: Features | None = None

  @property
  def traits(self) -> Traits:
    cfg = self.config
    return Traits(
      width=cfg.d_model,
      uses_time=cfg.time != 'none',
      chunk_size=cfg.loss_chunk,
    )

  def init(self, key: Key) -> PyTree:
    cfg = self.config
    length = min(4, cfg.max_positions or 4)
    ids: Any = jnp.zeros((1, length), jnp.int32)
    source, view = {}, View()
    if cfg.encoder_layers:
      variables = self._encoder.init(stream(key, 'encoder'), ids, 0.0, View())
      source = {'encoder': variables['params']}
      view = View(memory=Memory(jnp.zeros((1, length, cfg.d_model))))
    if self.features is not None:
      ids = jnp.zeros((1, length, self.features.inputs))
    module = self._module(Body, self.num_outputs or self.num_states)
    return {**module.init(key, ids, 0.5, view)['params'], **source}

  def hidden(
    self,
    params: PyTree,
    x: X | Mixture,
    t: Time,
    view: View,
    cache: PyTree = None,
  ) -> tuple[Float[Array, 'B n D'], PyTree]:
    return self._module(Body, 0).apply(
      {'params': params}, x, t, view, cache, rngs=_dropout(view.dropout_key)
    )

  def read(
    self, params: PyTree, hidden: Float[Array, '... D']
  ) -> Float[Array, '... outputs']:
    module = self._module(Reader, self.num_outputs or self.num_states)
    out: Any = module.apply({'params': params}, hidden)
    return out

  def new_cache(self, rows: int, length: int) -> Cache:
    cfg = self.config
    check_positions(cfg, length)
    shape = (rows, length, cfg.kv_heads, cfg.head_size)
    return empty_cache(shape, cfg.compute_dtype, cfg.num_layers, cfg.is_scanned)

  def encode(
    self,
    params: PyTree,
    ids: Int[Array, 'B S'],
    segments: Int[Array, 'B S'] | None,
    dropout_key: Key | None = None,
  ) -> Memory:
    if not self.config.encoder_layers:
      return super().encode(params, ids, segments, dropout_key)
    values, _ = self._encoder.apply(
      {'params': params['encoder']},
      ids,
      0.0,
      View(segments=segments, dropout_key=dropout_key),
      rngs=_dropout(dropout_key),
    )
    return Memory(values, None if segments is None else segments > 0)

  def embedder(self, params: PyTree) -> Embedder:
    if self.features is None:
      return IdEmbedder(params['embedding'])
    own = {name: params[name] for name in ('embedding', 'rounding_bias')}
    return FeatureEmbedder(own, self.features)

  def _module(self, kind: type[Ends], num_outputs: int) -> Any:
    return kind(self.config, self.num_states, num_outputs, self.features)

  @property
  def _encoder(self) -> Body:
    config = dataclasses.replace(
      self.config,
      num_layers=self.config.encoder_layers,
      time='none',
      time_size=None,
      encoder_layers=0,
    )
    return Body(config, self.num_states, 0)


def _dropout(key: Key | None) -> dict[str, Key]:
  return {} if key is None else {'dropout': key}


def num_params(network: Network) -> int:
  """Returns the number of parameters."""
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def flops_per_token(
  config: TransformerConfig,
  num_outputs: int,
  length: int,
  features: Features | None = None,
  source_length: int = 0,
  structure: Structure = Full(),  # noqa: B008 an immutable value
) -> float:
  """Returns the model FLOPs of a forward pass per token.

  A multiply-add counts as 2. Only matrix products count: no gathers, norms or
  softmax. With a causal structure half of the attention scores count.

  Args:
    config: sizes of the network.
    num_outputs: outputs per token.
    length: tokens in a row.
    features: settings of token features if noise is continuous.
    source_length: tokens in a source, whose cost is included in proportion.
    structure: which tokens attend to which.
  """
  d, kv = config.d_model, config.kv_heads * config.head_size
  attention = 2 * d * d + 2 * d * kv
  mlp = config.mlp_matrices * d * config.hidden
  attended = length / 2 if isinstance(structure, Causal) else length
  per_layer = 2 * (attention + mlp) + 4 * d * attended
  total = config.num_layers * per_layer
  if config.encoder_layers:
    share = source_length / length
    itself = 2 * (attention + mlp) + 4 * d * source_length
    total += share * config.encoder_layers * itself
    cross = 4 * d * d + 4 * d * source_length + 4 * d * kv * share
    total += config.num_layers * cross
  sides = 2 * d * num_outputs
  if features is not None:  # Two matrices on each side of the blocks.
    sides += 2 * d * (features.inputs + d)
    if features.predicts == 'features':
      sides = 2 * d * (features.inputs + 2 * d + features.size)
  return total + sides
