"""Models and networks made of plain functions, for tests."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import Array, Facts
from textdiffusion.model import Model
from textdiffusion.nn.network import Network, Traits, View
from textdiffusion.objectives.base import Models


@pytree
class TableEmbedder:
  """Embeddings that are the rows of a table.

  Attributes:
    table: [K, D].
    read: (features, table) -> logits, in place of products with the rows.
  """

  table: Array
  read: Any = static(default=None)

  @property
  def is_input(self):
    return True

  @property
  def self_condition(self):
    return False

  def embed(self, ids):
    return self.table[ids]

  def logits(self, features):
    if self.read is not None:
      return self.read(features, self.table)
    return features @ self.table.T

  def expected(self, logits):
    # Of the first rows, where logits are of fewer tokens.
    return jax.nn.softmax(logits) @ self.table[: logits.shape[-1]]


class FunctionModel(Model):
  """A model whose heads are those of a function (x, t) -> head."""

  def __init__(self, denoise, process=None, facts=Facts(), chunk_size=0):  # noqa: B008
    self.denoise, self.facts, self.view = denoise, facts, View()
    self.process = process if process is None else process.refresh(facts)
    self._size = chunk_size

  @property
  def _chunk_size(self):
    return self._size

  def hidden(self, x, t, cache=None):
    return self.denoise(x, t), cache

  def read(self, hidden, x, t):
    return hidden

  def with_view(self, **changes):
    return self

  def new_cache(self, rows, length):
    raise NotImplementedError


def student(denoise, process=None, **facts):
  """`Models` of a `FunctionModel` alone; facts: fields of `Facts`."""
  return Models(FunctionModel(denoise, process, Facts(**facts)))


@dataclasses.dataclass(frozen=True)
class FunctionNetwork(Network):
  """A network that is one function (params, x, t, view) -> raw output.

  Attributes:
    apply: the function.
    initial: key -> parameters.
    embedder_of: parameters -> embedder.
    own: facts about it.
  """

  apply: Callable[..., Any]
  initial: Callable[..., Any] = lambda key: ()
  embedder_of: Callable[..., Any] = lambda params: None
  own: Traits = Traits(0)

  @property
  def traits(self):
    return self.own

  def init(self, key):
    return self.initial(key)

  def hidden(self, params, x, t, view, cache=None):
    return self.apply(params, x, t, view), cache

  def read(self, params, hidden):
    return hidden

  def embedder(self, params):
    return self.embedder_of(params)


def outputs(network, params, x, t=0.5, view=View()):  # noqa: B008
  """The raw output of a network."""
  hidden, _ = network.hidden(params, x, t, view)
  return network.read(params, hidden)
