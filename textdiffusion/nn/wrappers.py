"""Wrappers: what methods change of a network."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.keys import stream
from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import (
  Array,
  Embedder,
  Key,
  PyTree,
  Time,
  UserError,
  X,
)
from textdiffusion.nn.network import (
  Cache,
  Traits,
  View,
  Wrapper,
  write_at,
)
from textdiffusion.schedules.learnt import LearntGamma


@dataclasses.dataclass(frozen=True)
class WithParams(Wrapper):
  """A network with the parameters of a method beside its own.

  Parameters are {'network': ..., 'method': ...}.

  Attributes:
    init_method: key -> the parameters of the method.
  """

  init_method: Callable[[Key], PyTree]

  def init(self, key: Key) -> PyTree:
    own = self.init_method(stream(key, 'method'))
    return {'network': self.network.init(key), 'method': own}

  def method_params(self, params: PyTree) -> PyTree:
    return params['method']

  def _inner(self, params: PyTree) -> PyTree:
    return params['network']


@dataclasses.dataclass(frozen=True)
class PerTokenTime(Wrapper):
  """A network that takes the time of each token."""

  @property
  def traits(self) -> Traits:
    return self.network.traits._replace(per_token_time=True)


@dataclasses.dataclass(frozen=True)
class Centred(Wrapper):
  """Noise around a learnt mean, the method's parameter `mean`, [D].

  Outside, features are relative to the mean; the network takes and returns
  them as they are (DiffuSeq v2, Gong et al. 2023b).
  """

  def hidden(
    self, params: PyTree, x: X, t: Time, view: View, cache: PyTree = None
  ) -> tuple[Any, PyTree]:
    return super().hidden(params, x + self._mean(params), t, view, cache)

  def read(self, params: PyTree, hidden: Any) -> Array:
    return super().read(params, hidden) - self._mean(params)

  def embedder(self, params: PyTree) -> Embedder | None:
    inner: Any = super().embedder(params)
    return dataclasses.replace(inner, origin=self._mean(params))

  def _mean(self, params: PyTree) -> Array:
    return self.method_params(params)['mean']


@dataclasses.dataclass(frozen=True)
class LikelihoodLogits(Wrapper):
  """Logits that start from what x_t itself says of each token (Plaid).

  log q_t(x_t | w), times the method's parameter `likelihood`, is added to the
  logits ("categorical reparameterisation", Gulrajani & Hashimoto 2023). The
  network takes gamma of the method's parameter `noise` in place of t.
  """

  def hidden(
    self, params: PyTree, x: X, t: Time, view: View, cache: PyTree = None
  ) -> tuple[Any, PyTree]:
    own, rows = self.method_params(params), self._table(params)
    noise = LearntGamma(**own['noise'])
    level, features = noise(t), x[..., : rows.shape[-1]]
    # Embeddings are equally long, so the rest is the same for every token.
    pull = jnp.exp(0.5 * level.log_alpha - level.log_1m_alpha)
    network_time = jnp.clip((noise.gamma(t) + 10) / 20, 0.0, 1.0)
    hidden, cache = super().hidden(params, x, network_time, view, cache)
    scale = jnp.broadcast_to(own['likelihood'] * pull, (*x.shape[:-1], 1))
    return (hidden, scale, features), cache

  def read(self, params: PyTree, hidden: Any) -> Array:
    hidden, scale, features = hidden
    raw = super().read(params, hidden)
    return raw + scale * (features @ self._table(params).T)

  def _table(self, params: PyTree) -> Array:
    embedder = self.embedder(params)
    assert embedder is not None and embedder.table is not None
    return embedder.table


@pytree
class SimplexEmbedder:
  """Tokens as the corners of [-1, 1]^K.

  Attributes:
    size: K.
    scale: logits at a corner.
    self_condition: whether the network takes its last estimate too.
  """

  size: int = static()
  scale: float = static()
  self_condition: bool = static(default=False)

  @property
  def table(self) -> None:
    return None

  @property
  def is_input(self) -> bool:
    return True

  def embed(self, ids: Array) -> Array:
    return 2 * jax.nn.one_hot(ids, self.size) - 1

  def logits(self, features: Array) -> Array:
    return self.scale * features

  def expected(self, logits: Array) -> Array:
    return 2 * jax.nn.softmax(logits) - 1


@dataclasses.dataclass(frozen=True)
class OnSimplex(Wrapper):
  """A network over tokens that takes [L, K] numbers, corners being -1 and 1.

  It mixes the embeddings by softmax(scale * x). Of [L, 2 K] numbers the second
  half is an estimate, or zeros where there is none.

  Attributes:
    size: K.
    scale: logits at a corner.
    self_condition: whether sampling gives it its last estimate too.

  Raises:
    UserError: the network does not take the time.
  """

  size: int
  scale: float
  self_condition: bool = False

  def __post_init__(self) -> None:
    if not self.traits.uses_time:
      raise UserError(
        'model.time=none: a network over noisy numbers must see the time: '
        '--set=model.time=adaln'
      )

  def hidden(
    self, params: PyTree, x: X, t: Time, view: View, cache: PyTree = None
  ) -> tuple[Any, PyTree]:
    now = x[..., : self.size]
    # A corner is a given token, whose embedding is not mixed with others.
    is_corner = (jnp.abs(now) == 1).all(-1, keepdims=True)
    mixed = jax.nn.softmax(self.scale * now)
    weights = jnp.where(is_corner, (now + 1) / 2, mixed)
    if x.shape[-1] > self.size:
      estimate = x[..., self.size :]
      is_shown = (estimate != 0).any(-1, keepdims=True) & ~is_corner
      mean = (weights + (estimate + 1) / 2) / 2
      weights = jnp.where(is_shown, mean, weights)
    return super().hidden(params, weights, t, view, cache)

  def embedder(self, params: PyTree) -> Embedder | None:
    return SimplexEmbedder(self.size, self.scale, self.self_condition)


@dataclasses.dataclass(frozen=True)
class LogitShift(Wrapper):
  """A network whose output at position i is that of position i - 1.

  For checkpoints that were trained autoregressively (Dream, DiffuLLaMA). The
  first position has no output: its hidden state is zero. The cache also keeps
  the last layer, for the token before a window.
  """

  def hidden(
    self, params: PyTree, x: X, t: Time, view: View, cache: PyTree = None
  ) -> tuple[Any, PyTree]:
    past, last = (None, None) if cache is None else cache
    hidden, past = super().hidden(params, x, t, view, past)
    before = jnp.zeros_like(hidden[:, :1])
    if last is not None:
      assert view.positions is not None
      place = view.positions[:, :1, None] - 1
      stored = last.k[..., 0, :].astype(hidden.dtype)
      found = jnp.take_along_axis(stored, jnp.maximum(place, 0), 1)
      before = jnp.where(place < 0, before, found)
      new = write_at(last.k, hidden[:, :, None], view.positions)
      last = last._replace(k=new)
    shifted = jnp.concatenate([before, hidden[:, :-1]], 1)
    return shifted, None if cache is None else (past, last)

  def new_cache(self, rows: int, length: int) -> PyTree:
    shape = (rows, length, 1, self.traits.width)
    last = Cache(
      jnp.zeros(shape, jnp.float32), (), jnp.zeros((rows, length), bool)
    )
    return super().new_cache(rows, length), last
