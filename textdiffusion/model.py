"""A process and a trained reverse of it: what samplers take."""

import abc
from typing import Any, NamedTuple

from textdiffusion.core.types import Array, Dist, PyTree, Time, Transition, X


class Output(NamedTuple):
  """The output of a model.

  Attributes:
    head: a typed head of [B, n] tokens.
    cache: the cache after the call, None without one.
  """

  head: Any
  cache: PyTree


class Model(abc.ABC):
  """A network with its parameters, and the process that it reverses.

  Attributes:
    process: the forward process as it is now.
    view: what else the network takes.
    facts: learnt and remembered values beside the network; `facts.embedder` is
      its token embeddings.
  """

  process: Any
  view: Any
  facts: Any = None

  @abc.abstractmethod
  def hidden(
    self, x: X, t: Time, cache: PyTree = None
  ) -> tuple[PyTree, PyTree]:
    """Returns a tree of [B, n, ...] hidden states, and the cache."""

  @abc.abstractmethod
  def read(self, hidden: PyTree, x: X, t: Time) -> Any:
    """Returns the head of tokens, each on its own; of any of `hidden`."""

  @abc.abstractmethod
  def with_view(self, **changes: Any) -> 'Model':
    """Returns the model with fields of its view replaced."""

  @abc.abstractmethod
  def new_cache(self, rows: int, length: int) -> PyTree:
    """Returns a cache in which no place is valid."""

  def __call__(self, x: X, t: Time, cache: PyTree = None) -> Output:
    hidden, cache = self.hidden(x, t, cache)
    return Output(self.read(hidden, x, t), cache)

  def reverse(
    self, x: Array, s: Time, t: Time, by: Transition | None = None
  ) -> Dist:
    """Returns the law of x_s given x_t by the bridge, or by another step."""
    by = by or self.process.bridge
    return by(self(x, t).head, x, s, t)
