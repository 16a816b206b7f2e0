"""Wrappers that adapt a network to a method."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.keys import stream
from textdiffusion.core.numerics import match_ranks, pytree, static
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
  """A network with additional parameters of a method.

  The parameters are {'network': ..., 'method': ...}.

  Attributes:
    init_method: returns the initial parameters of the method for a key.
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
  """Declares that a network is trained with a time for each token, [B, L].

  The network stays as it is; models without this trait call theirs with the
  largest time of each row (`Bound.hidden`).
  """

  @property
  def traits(self) -> Traits:
    return self.network.traits._replace(per_token_time=True)


@dataclasses.dataclass(frozen=True)
class Centred(Wrapper):
  """A network for noise around a learnt mean (DiffuSeq v2, Gong et al. 2023b).

  The mean [D] is the method's parameter `mean`. Callers use features relative
  to the mean; the wrapped network takes and returns absolute features.
  """

  def hidden(  # ty: ignore[incompatible-method-override]
    self,
    params: PyTree,
    x: Float[Array, 'B n D'],
    t: Time,
    view: View,
    cache: PyTree = None,
  ) -> tuple[PyTree, PyTree]:
    x, mean = match_ranks(x, self._mean(params))
    return super().hidden(params, x + mean, t, view, cache)

  def read(self, params: PyTree, hidden: PyTree) -> Float[Array, '... outputs']:
    x0, mean = match_ranks(super().read(params, hidden), self._mean(params))
    return x0 - mean

  def embedder(self, params: PyTree) -> Embedder | None:
    inner: Any = super().embedder(params)
    return dataclasses.replace(inner, origin=self._mean(params))

  def _mean(self, params: PyTree) -> Float[Array, ' D']:
    return self.method_params(params)['mean']


@dataclasses.dataclass(frozen=True)
class LikelihoodLogits(Wrapper):
  """A network whose logits include the likelihood of x_t (Plaid).

  log q_t(x_t | w), times the method's parameter `likelihood`, is added to the
  logits ("categorical reparameterisation", Gulrajani & Hashimoto 2023). The
  wrapped network takes gamma(t), from the method's parameter `noise`, as time.
  """

  def hidden(  # ty: ignore[incompatible-method-override]
    self,
    params: PyTree,
    x: Float[Array, 'B n D'],
    t: Time,
    view: View,
    cache: PyTree = None,
  ) -> tuple[PyTree, PyTree]:
    own, rows = self.method_params(params), self._table(params)
    noise = LearntGamma(**own['noise'])
    level, features = noise(t), x[..., : rows.shape[-1]]
    # All embeddings have the same norm, so the other terms of log q_t are equal
    # for all tokens.
    pull = jnp.exp(0.5 * level.log_alpha - level.log_1m_alpha)
    network_time = jnp.clip((noise.gamma(t) + 10) / 20, 0.0, 1.0)
    hidden, cache = super().hidden(params, x, network_time, view, cache)
    scale = jnp.broadcast_to(own['likelihood'] * pull, (*x.shape[:-1], 1))
    return (hidden, scale, features), cache

  def read(self, params: PyTree, hidden: PyTree) -> Float[Array, '... outputs']:
    hidden, scale, features = hidden
    raw = super().read(params, hidden)
    return raw + scale * (features @ self._table(params).T)

  def _table(self, params: PyTree) -> Float[Array, 'K D']:
    embedder = self.embedder(params)
    assert embedder is not None and embedder.table is not None
    return embedder.table


@pytree
class SimplexEmbedder:
  """Embeds tokens as the corners of [-1, 1]^K.

  Attributes:
    size: number of tokens, K.
    scale: size of the logits at a corner.
    self_condition: whether the network also takes its previous prediction.
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

  def embed(self, ids: Int[Array, '...']) -> Float[Array, '... K']:
    return 2 * jax.nn.one_hot(ids, self.size) - 1

  def logits(self, features: Float[Array, '... K']) -> Float[Array, '... K']:
    return self.scale * features

  def expected(self, logits: Float[Array, '... K']) -> Float[Array, '... K']:
    return 2 * jax.nn.softmax(logits) - 1


@dataclasses.dataclass(frozen=True)
class OnSimplex(Wrapper):
  """A network over tokens that takes points of the simplex, [L, K] numbers.

  A token is a corner, with numbers -1 and 1. The network mixes its embeddings
  by softmax(scale * x). With [L, 2 K] numbers, the second half is the previous
  prediction of x_0, or zeros if there is none.

  Attributes:
    size: number of tokens, K.
    scale: size of the logits at a corner.
    self_condition: whether samplers pass the previous prediction.

  Raises:
    UserError: the network does not take the time.
  """

  size: int
  scale: float
  self_condition: bool = False

  def __post_init__(self) -> None:
    if not self.traits.uses_time:
      raise UserError(
        'model.time=none: a network over noisy numbers must take the time: '
        '--set=model.time=adaln'
      )

  def hidden(  # ty: ignore[incompatible-method-override]
    self,
    params: PyTree,
    x: Float[Array, 'B n N'],
    t: Time,
    view: View,
    cache: PyTree = None,
  ) -> tuple[PyTree, PyTree]:
    now = x[..., : self.size]
    # A corner is a given token, so its embedding is not mixed with others.
    is_corner = (jnp.abs(now) == 1).all(-1, keepdims=True)
    mixed = jax.nn.softmax(self.scale * now)
    weights = jnp.where(is_corner, (now + 1) / 2, mixed)
    if x.shape[-1] > self.size:
      estimate = x[..., self.size :]
      has_estimate = (estimate != 0).any(-1, keepdims=True) & ~is_corner
      mean = (weights + (estimate + 1) / 2) / 2
      weights = jnp.where(has_estimate, mean, weights)
    return super().hidden(params, weights, t, view, cache)

  def embedder(self, params: PyTree) -> Embedder | None:
    return SimplexEmbedder(self.size, self.scale, self.self_condition)


@dataclasses.dataclass(frozen=True)
class LogitShift(Wrapper):
  """A network whose output for position i is computed at position i - 1.

  This adapts checkpoints that were trained autoregressively (Dream,
  DiffuLLaMA). The first position has no output, so its hidden state is zero.
  The cache also holds the last layer, for the token before the tokens of a
  call.
  """

  def hidden(
    self,
    params: PyTree,
    x: X | Mixture,
    t: Time,
    view: View,
    cache: PyTree = None,
  ) -> tuple[PyTree, PyTree]:
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
