"""The contract of a network: everything outside `nn` uses only this.

The output has two parts. `hidden` is where tokens exchange information, and
`read` turns the hidden state of each token into outputs on its own. So a loss
of a few tokens at a time, outputs at chosen positions and a shifted output
need nothing else of a network.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import (
  Array,
  Embedder,
  Key,
  Mixture,
  PyTree,
  Time,
  UserError,
  X,
)


class Structure:
  """Which tokens may attend to which others, as a rule of their positions."""

  def allowed(self, q: Any, k: Any) -> Any:
    """Returns whether position q may attend to position k.

    Args:
      q: integer positions of queries; NumPy or JAX.
      k: integer positions of keys, which broadcast against `q`.
    """
    raise NotImplementedError

  def dense(self, length: int) -> Any:
    """Returns the rule as a boolean mask, [1, L, L] or [B, L, L]."""
    place = np.arange(length)
    return self.allowed(place[:, None], place)[None]


@pytree
class Full(Structure):
  """Every token attends to every token."""

  def allowed(self, q: Any, k: Any) -> Any:
    return (q >= 0) & (k >= 0)


@pytree
class Causal(Structure):
  """A token attends to itself and to all tokens before it."""

  def allowed(self, q: Any, k: Any) -> Any:
    return q >= k


@pytree
class BlockCausal(Structure):
  """A token attends to its own block and to earlier blocks.

  Attributes:
    size: tokens in a block.
  """

  size: int = static()

  def allowed(self, q: Any, k: Any) -> Any:
    return q // self.size >= k // self.size


@pytree
class CleanNoisy(Structure):
  """Rows of noisy tokens x_t followed by the clean tokens x_0 of the same text.

  Noisy tokens attend to their own block and to earlier clean blocks; clean
  tokens attend block-causally to clean tokens (BD3-LM, Arriola et al. 2025).

  Attributes:
    size: tokens in a block.
    length: tokens in the text; a row has 2 * length positions.
  """

  size: int = static()
  length: int = static()

  def allowed(self, q: Any, k: Any) -> Any:
    is_noisy, is_noisy_key = q < self.length, k < self.length
    own, other = (i % self.length // self.size for i in (q, k))
    from_noisy = (is_noisy_key & (own == other)) | (
      ~is_noisy_key & (own > other)
    )
    from_clean = ~is_noisy_key & (own >= other)
    return (is_noisy & from_noisy) | (~is_noisy & from_clean)


@pytree
class Dense(Structure):
  """A mask given as an array, where no rule describes it. No kernel takes it.

  Attributes:
    mask: [L, L] or [B, L, L], True where the query (row) may attend to the key.
  """

  mask: Bool[Array, '... L L']

  def allowed(self, q: Any, k: Any) -> Any:
    return self.mask[..., q, k]

  def dense(self, length: int) -> Any:
    return self.mask if self.mask.ndim == 3 else self.mask[None]


class Memory(NamedTuple):
  """The output of an encoder.

  Attributes:
    values: hidden states of the source.
    is_token: False at padding; None if there is no padding.
  """

  values: Float[Array, 'B S D']
  is_token: Bool[Array, 'B S'] | None = None


class View(NamedTuple):
  """The inputs of a network besides x and t. Each field may be absent.

  Attributes:
    positions: positions in the text, for position embeddings and for the cache;
      arange(n) if None.
    segments: document numbers. Tokens attend to their own document only, and 0
      is padding.
    structure: which tokens attend to which.
    memory: the output of an encoder.
    dropout_key: turns dropout on.
  """

  positions: Int[Array, 'B n'] | None = None
  segments: Int[Array, 'B n'] | None = None
  structure: Structure = Full()
  memory: Memory | None = None
  dropout_key: Key | None = None


class Traits(NamedTuple):
  """Facts about a network that are known before it has parameters.

  Attributes:
    width: numbers per token in `hidden`.
    uses_time: whether the output depends on t.
    per_token_time: whether it takes one time per token. Other networks take
      one time per row.
    chunk_size: tokens of a row that a loss reads at a time; 0 for all.
  """

  width: int
  uses_time: bool = True
  per_token_time: bool = False
  chunk_size: int = 0


class Network(abc.ABC):
  """A network: pure functions of its parameters."""

  @property
  @abc.abstractmethod
  def traits(self) -> Traits:
    """What the architecture alone decides, before there are parameters."""

  @abc.abstractmethod
  def init(self, key: Key) -> PyTree:
    """Returns fresh parameters."""

  @abc.abstractmethod
  def hidden(
    self,
    params: PyTree,
    x: X | Mixture,
    t: Time,
    view: View,
    cache: PyTree = None,
  ) -> tuple[PyTree, PyTree]:
    """Returns hidden states [B, n, D], and the cache if there is one.

    Args:
      params: parameters with the structure of those of `init`.
      x: [B, n] ids; or mixtures of tokens, as [B, n, K] weights of all tokens
        or a `Mixture` of a few; or [B, n, D] features if noise is continuous.
      t: times that broadcast against [B, n].
      view: the other inputs of the network.
      cache: a cache of `new_cache`. The n tokens are written at their
        positions. Until `commit`, only the tokens of this call attend to them.
    """

  @abc.abstractmethod
  def read(self, params: PyTree, hidden: PyTree) -> Float[Array, '... outputs']:
    """Maps hidden states [..., D] to float32 outputs, token by token."""

  def new_cache(self, rows: int, length: int) -> PyTree:
    """Returns an empty cache for `rows` texts of `length` tokens.

    Raises:
      UserError: the network has no cache.
    """
    raise UserError(f'{type(self).__name__} has no cache of keys and values')

  def encode(
    self,
    params: PyTree,
    ids: Int[Array, 'B S'],
    segments: Int[Array, 'B S'] | None,
    dropout_key: Key | None = None,
  ) -> Memory:
    """Encodes a source, once for all later calls.

    Args:
      params: parameters of the network.
      ids: ids of the source.
      segments: segments of the source, 0 at padding; None without any.
      dropout_key: turns dropout on.

    Raises:
      UserError: the network has no encoder.
    """
    raise UserError(
      'rows with a source need an encoder: --set=model.encoder_layers=6, or '
      '--set=data.rows=joined'
    )

  def embedder(self, params: PyTree) -> Embedder | None:
    """Returns the token embeddings, or None if there are none."""
    return None

  def method_params(self, params: PyTree) -> PyTree:
    """Returns the parameters of the method, () if it has none."""
    return ()


@dataclasses.dataclass(frozen=True)
class Wrapper(Network):
  """A network that delegates everything to another one.

  Subclasses override what they change.

  Attributes:
    network: the wrapped network.
  """

  network: Network

  @property
  def traits(self) -> Traits:
    return self.network.traits

  def init(self, key: Key) -> PyTree:
    return self.network.init(key)

  def hidden(
    self,
    params: PyTree,
    x: X | Mixture,
    t: Time,
    view: View,
    cache: PyTree = None,
  ) -> tuple[PyTree, PyTree]:
    return self.network.hidden(self._inner(params), x, t, view, cache)

  def read(self, params: PyTree, hidden: PyTree) -> Float[Array, '... outputs']:
    return self.network.read(self._inner(params), hidden)

  def new_cache(self, rows: int, length: int) -> PyTree:
    return self.network.new_cache(rows, length)

  def encode(
    self,
    params: PyTree,
    ids: Int[Array, 'B S'],
    segments: Int[Array, 'B S'] | None,
    dropout_key: Key | None = None,
  ) -> Memory:
    return self.network.encode(self._inner(params), ids, segments, dropout_key)

  def embedder(self, params: PyTree) -> Embedder | None:
    return self.network.embedder(self._inner(params))

  def method_params(self, params: PyTree) -> PyTree:
    return self.network.method_params(self._inner(params))

  def _inner(self, params: PyTree) -> PyTree:
    """Returns the parameters of the wrapped network."""
    return params


class Cache(NamedTuple):
  """Keys and values by position in the text.

  Attributes:
    k: a tree of [..., B, S, G, D] keys; scanned layers have a leading axis.
    v: the values, in the same form.
    is_valid: positions that later calls may attend to.
  """

  k: PyTree
  v: PyTree
  is_valid: Bool[Array, 'B S']


def empty_cache(
  shape: tuple[int, int, int, int],
  dtype: jnp.dtype,
  num_layers: int,
  scanned: bool,
) -> Cache:
  """Returns a cache without a valid position.

  Args:
    shape: shape of the keys of one layer, [B, S, G, D].
    dtype: type of keys and values.
    num_layers: number of layers.
    scanned: whether one array holds all layers, instead of a tuple of arrays.
  """

  def zeros() -> PyTree:
    if scanned:
      return jnp.zeros((num_layers, *shape), dtype)
    return tuple(jnp.zeros(shape, dtype) for _ in range(num_layers))

  return Cache(zeros(), zeros(), jnp.zeros(shape[:2], bool))


def write_at(
  old: Shaped[Array, 'B S ...'],
  new: Shaped[Array, 'B n ...'],
  places: Int[Array, 'B n'],
) -> Shaped[Array, 'B S ...']:
  """Writes values into an array at given places; returns the new array.

  Args:
    old: the array.
    new: the values.
    places: indices along S; values beyond S are dropped.
  """
  put = lambda old, new, places: old.at[places].set(new, mode='drop')
  return jax.vmap(put)(old, new.astype(old.dtype), places)


def commit(
  cache: PyTree, places: Int[Array, 'B n'], keep: Bool[Array, 'B n']
) -> PyTree:
  """Makes places valid for later calls. Keys and values are not copied.

  Args:
    cache: a `Cache`, or any tree of them, such as that of two guided networks.
    places: positions in the text.
    keep: False for places that stay as they are.
  """

  def one(cache: Cache) -> Cache:
    # A place beyond the end is dropped by `write_at`.
    slot = jnp.where(keep, places, cache.is_valid.shape[1])
    valid = write_at(cache.is_valid, jnp.ones(slot.shape, bool), slot)
    return cache._replace(is_valid=valid)

  return jax.tree.map(one, cache, is_leaf=lambda node: isinstance(node, Cache))


def cache_mask(
  cache: Cache, structure: Structure, places: Int[Array, 'B n']
) -> Bool[Array, 'B n S']:
  """Returns the attention mask of a call with a cache.

  The tokens of the call attend to valid places of the cache and to each other,
  as far as the structure allows.

  Args:
    cache: the cache.
    structure: which tokens attend to which.
    places: positions of the tokens of the call.
  """
  q = places[:, :, None]
  held = jnp.arange(cache.is_valid.shape[1])[None, None]
  is_new = (q == held).any(1)
  is_there = (cache.is_valid | is_new)[:, None]
  return structure.allowed(q, held) & is_there
