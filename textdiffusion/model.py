"""What objectives and samplers use: a process and a trained reverse of it."""

import abc
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import (
  X0,
  Array,
  Batch,
  Dist,
  Facts,
  Head,
  Key,
  Mixture,
  Posterior,
  PyTree,
  Time,
  Transition,
  X,
)
from textdiffusion.nn.chunks import map_chunks
from textdiffusion.nn.network import Network, Structure, View
from textdiffusion.processes.bridge import TokenProcess, denoised_at_end

# (process as it is now, raw output, x_t, t) -> typed head.
HeadFn = Callable[[Any, Float[Array, 'B n outputs'], Any, Time], Any]


@dataclasses.dataclass(frozen=True)
class RawHead:
  """The `HeadFn` of a head that is the raw output as it is.

  Attributes:
    kind: the type of the head.
  """

  kind: Callable[[Float[Array, 'B n outputs']], Head]

  def __call__(
    self,
    process: Any,
    raw: Float[Array, 'B n outputs'],
    x: X | Mixture,
    t: Time,
  ) -> Head:
    return self.kind(raw)


class Trained(NamedTuple):
  """What training produces. There is no model of one without the other.

  Attributes:
    params: parameters of a network.
    state: state of the method between training steps, () where it has none.
  """

  params: PyTree
  state: PyTree = ()


class MethodState(Protocol):
  """State of a method between training steps, such as a schedule that follows
  the loss. No gradient goes through it."""

  def init(self, facts: Facts) -> PyTree:
    """Returns the state before the first step, from fresh parameters."""
    ...

  def before_step(
    self, state: PyTree, facts: Facts, step: Int[Array, '']
  ) -> PyTree:
    """Returns the state under which training step `step` is taken."""
    ...

  def after_step(
    self, state: PyTree, batch: Batch, terms: dict[str, Float[Array, 'B L']]
  ) -> PyTree:
    """Returns the state after a step, from terms of the loss."""
    ...


class Wiring(Protocol):
  """The part of a `Method` that a model needs."""

  @property
  def process(self) -> Any: ...
  @property
  def head(self) -> HeadFn: ...
  @property
  def structure(self) -> Structure: ...
  @property
  def state(self) -> MethodState | None: ...


class Output(NamedTuple):
  """What a call of a model returns.

  Attributes:
    head: a typed head of every token.
    cache: the cache with the tokens of the call, if there was one.
  """

  head: Any
  cache: PyTree


class Model(abc.ABC):
  """A process and a trained reverse of it.

  Attributes:
    process: the forward process, with its schedule as trained so far; None for
      autoregression.
    view: inputs of the network beside tokens and time, such as segments.
    facts: trained values outside the network, such as a fitted schedule.
  """

  if TYPE_CHECKING:  # fields of some subclasses, properties of others

    @property
    def process(self) -> Any: ...
    @property
    def view(self) -> View: ...
    @property
    def facts(self) -> Facts: ...

  @property
  def _chunk_size(self) -> int:
    """Tokens of a row that `map_tokens` reads at once; 0 for all."""
    return 0

  @abc.abstractmethod
  def hidden(
    self, x: X | Mixture, t: Time, cache: PyTree = None
  ) -> tuple[PyTree, PyTree]:
    """Returns a tree of hidden states [B, n, D], and the cache if there is one.

    See `Network.hidden`.
    """

  @abc.abstractmethod
  def read(self, hidden: PyTree, x: X | Mixture, t: Time) -> Any:
    """The head of some tokens, each on its own.

    Args:
      hidden: hidden states of any of the tokens of a call of `hidden`.
      x: the same tokens of its x.
      t: the same tokens of its t.
    """

  @abc.abstractmethod
  def with_view(self, **changes: Any) -> 'Model':
    """Returns the model with fields of its view replaced."""

  @abc.abstractmethod
  def new_cache(self, rows: int, length: int) -> PyTree:
    """See `Network.new_cache`."""

  def __call__(self, x: X | Mixture, t: Time, cache: PyTree = None) -> Output:
    hidden, cache = self.hidden(x, t, cache)
    return Output(self.read(hidden, x, t), cache)

  def reverse(
    self, x: X, s: Time, t: Time, by: Transition | None = None
  ) -> Dist:
    """The distribution of x_s given x_t = x.

    Args:
      x: tokens or features at t.
      s: times below t.
      t: times of x.
      by: (head, x_t, s, t) -> a distribution, in place of the bridge. The
        bridge of a token process draws clean tokens at s = 0.
    """
    return (by or _bridge(self))(self(x, t).head, x, s, t)


def _bridge(model: Model) -> Transition:
  process, embedder = model.process, model.facts.embedder
  if isinstance(process, TokenProcess):
    return denoised_at_end(process, process.bridge)

  def bridge(head: Any, x: X, s: Time, t: Time) -> Dist:
    if isinstance(head, Posterior):
      assert embedder is not None
      head = X0(embedder.expected(head.logits))
    return process.bridge(head, x, s, t)

  return bridge


def map_tokens(
  model: Model,
  loss: Callable[..., PyTree],
  hidden: PyTree,
  x: X | Mixture,
  t: Time,
  *rows: PyTree,
) -> PyTree:
  """loss(head, *rows) for every token, computed a few tokens at a time.

  `model.loss_chunk` says how many, so that logits never stand whole in memory.

  Args:
    model: whose `read` gives the heads.
    loss: (head, *rows) -> a tree of [B, n], where each token depends on its own
      head and rows only.
    hidden: hidden states of all tokens, from `model.hidden(x, t)`.
    x: as given to `hidden`.
    t: as given to `hidden`.
    *rows: trees of [B, L, ...]; leaves without L tokens are passed unchanged.
  """
  if not model._chunk_size:
    return loss(model.read(hidden, x, t), *rows)

  def of_chunk(hidden: PyTree, parts: PyTree) -> PyTree:
    x, t, *rows = parts
    return loss(model.read(hidden, x, t), *rows)

  return map_chunks(of_chunk, hidden, (x, t, *rows), model._chunk_size)


def token_losses(
  model: Model,
  loss: Callable[..., PyTree],
  x: X | Mixture,
  t: Time,
  *rows: PyTree,
) -> PyTree:
  """`map_tokens` at (x, t), with the call of the network."""
  hidden, _ = model.hidden(x, t)
  return map_tokens(model, loss, hidden, x, t, *rows)


@pytree
class Bound(Model):
  """A network with its parameters. Only `bind` builds one."""

  network: Network = static()
  head: HeadFn = static()
  params: PyTree
  process: Any
  view: View
  facts: Facts

  @property
  def _chunk_size(self) -> int:
    return self.network.traits.chunk_size

  def hidden(
    self, x: X | Mixture, t: Time, cache: PyTree = None
  ) -> tuple[PyTree, PyTree]:
    # Most networks are trained with one time per row. When times differ within
    # a row (prompt tokens have t = 0), they receive the row's largest time.
    if jnp.ndim(t) > 1 and not self.network.traits.per_token_time:
      t = jnp.max(t, axis=-1, keepdims=True)
    return self.network.hidden(self.params, x, t, self.view, cache)

  def read(self, hidden: PyTree, x: X | Mixture, t: Time) -> Any:
    return self.head(self.process, self.network.read(self.params, hidden), x, t)

  def with_view(self, **changes: Any) -> 'Bound':
    return dataclasses.replace(self, view=self.view._replace(**changes))

  def new_cache(self, rows: int, length: int) -> PyTree:
    return self.network.new_cache(rows, length)


def facts_of(network: Network, trained: Trained) -> Facts:
  """The learnt and remembered values beside the network."""
  params, state = trained
  return Facts(network.method_params(params), state, network.embedder(params))


def bind(
  method: Wiring, network: Network, trained: Trained, view: View | None = None
) -> Bound:
  """Builds the model of a trained method.

  This is the only way to a model, and the only place where a process is
  refreshed, so that none is used as it was at the start of training.

  Args:
    method: the wiring.
    network: as `method` needs it.
    trained: parameters and the state of the method.
    view: what else the network takes; its structure is the method's.

  Raises:
    TypeError: the state of the method is missing, or the method has none.
  """
  has_state = bool(jax.tree.leaves(trained.state))
  if (method.state is not None) != has_state:
    kept = 'is missing' if method.state is not None else 'is given'
    raise TypeError(
      f'the state of the method {kept}, and {type(method.state).__name__} is '
      'what it declares: pass the state that was trained with the parameters'
    )
  facts, process = facts_of(network, trained), method.process
  if process is not None:
    process = process.refresh(facts)
  view = (view or View())._replace(structure=method.structure)
  return Bound(network, method.head, trained.params, process, view, facts)


def unbound(method: Wiring, network: Network) -> Bound:
  """Builds a model without parameters, for checks that need no network call."""
  view = View(structure=method.structure)
  return Bound(network, method.head, (), method.process, view, Facts())


def batch_view(
  network: Network,
  params: PyTree,
  batch: Batch,
  dropout_key: Key | None = None,
) -> View:
  """What a network takes of a batch beside x and t; reads the source once.

  Raises:
    UserError: the batch has a source and the network has no encoder.
  """
  memory = None
  if batch.source is not None:
    memory = network.encode(
      params, batch.source, batch.source_segments, dropout_key
    )
  return View(
    batch.positions, batch.segments, memory=memory, dropout_key=dropout_key
  )


class WrappedModel(Model):
  """A model around another one, its field `model`; passes everything on.

  Subclasses are pytrees and override what they change.
  """

  if TYPE_CHECKING:

    @property
    def model(self) -> Model: ...

  @property
  def process(self) -> Any:
    return self.model.process

  @property
  def view(self) -> View:
    return self.model.view

  @property
  def facts(self) -> Facts:
    return self.model.facts

  @property
  def _chunk_size(self) -> int:
    return self.model._chunk_size

  def hidden(
    self, x: X | Mixture, t: Time, cache: PyTree = None
  ) -> tuple[PyTree, PyTree]:
    return self.model.hidden(x, t, cache)

  def read(self, hidden: PyTree, x: X | Mixture, t: Time) -> Any:
    return self.model.read(hidden, x, t)

  def with_view(self, **changes: Any) -> 'Model':
    changed: Any = {'model': self.model.with_view(**changes)}
    return dataclasses.replace(cast(Any, self), **changed)

  def new_cache(self, rows: int, length: int) -> PyTree:
    return self.model.new_cache(rows, length)


@pytree
class Anchored(WrappedModel):
  """A model whose network reads given tokens without noise.

  Where x_t is embeddings, the first D numbers of a place are its embedding and
  the only ones that are replaced; more may follow, such as a self-conditioning
  estimate.

  Attributes:
    model: the model without given tokens.
    ids: clean tokens.
    is_given: True where a token is kept as it is.
  """

  model: Model
  ids: Int[Array, 'B L']
  is_given: Bool[Array, 'B L']

  def hidden(
    self, x: X | Mixture, t: Time, cache: PyTree = None
  ) -> tuple[PyTree, PyTree]:
    return self.model.hidden(self._restored(x), t, cache)

  def _restored(self, x: X | Mixture) -> X | Mixture:
    """x with the given tokens in their places."""
    given, ids = self.is_given[..., None], self.ids
    embedder = self.facts.embedder
    if isinstance(x, Mixture):
      one = jnp.zeros_like(x.weights).at[..., 0].set(1)
      return Mixture(
        jnp.where(given, ids[..., None], x.ids),
        jnp.where(given, one, x.weights),
      )
    if embedder is not None and embedder.is_input:
      clean = embedder.embed(ids)
      size = clean.shape[-1]
      restored = jnp.where(given, clean, x[..., :size])
      return jnp.concatenate([restored, x[..., size:]], -1)
    if jnp.issubdtype(x.dtype, jnp.integer):
      return jnp.where(self.is_given, ids, x)
    return jnp.where(given, jax.nn.one_hot(ids, x.shape[-1], dtype=x.dtype), x)


def anchored(model: Model, batch: Batch) -> Model:
  """A model whose network reads the given tokens of a batch without noise.

  Returns the model as it is if no token of the batch is given.
  """
  if batch.is_given is None:
    return model
  return Anchored(model, batch.ids, batch.is_given)
