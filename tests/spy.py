"""A network that records what it is called with."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.models import TableEmbedder
from textdiffusion.core.types import Facts
from textdiffusion.model import Bound
from textdiffusion.nn.network import (
  Cache,
  Causal,
  Full,
  Network,
  Traits,
  View,
)
from textdiffusion.objectives.base import Models

SIZE = 4  # of the features of a token


@dataclasses.dataclass(frozen=True, eq=False)
class Recorder(Network):
  """Its output is even. calls: (x, t) of each call; t as it receives it, or
  the position of the first token where there is a cache."""

  calls: list[Any]
  width: int
  own: Traits

  @property
  def traits(self):
    return self.own

  def init(self, key):
    return ()

  def hidden(self, params, x, t, view, cache=None):
    t = jnp.asarray(t) if cache is None else view.positions[0, 0]
    record = lambda x, t: self.calls.append((np.asarray(x), np.asarray(t)))
    jax.debug.callback(record, x, t, ordered=True)
    return jnp.zeros((*x.shape[:2], self.width)), cache

  def read(self, params, hidden):
    return hidden

  def new_cache(self, rows, length):
    return Cache((), (), jnp.zeros((rows, length), bool))


class Spy:
  """A network whose output is even, and the calls of it in their order.

  Attributes:
    calls: (x, t) of each call; t as the network receives it.
    model: the network as samplers take it.
    models: the network as objectives take it.
  """

  def __init__(
    self, head, width, process=None, per_token=True, in_chunks=False
  ):
    """head: (process, raw output, x, t) -> typed head. width: of the raw
    output. process: of the model. per_token: whether the network takes a time
    for each token. in_chunks: whether losses are of a token at a time."""
    self.calls = []
    table = jnp.linspace(-1.0, 1.0, 12 * SIZE).reshape(12, SIZE)
    traits = Traits(width, per_token_time=per_token, chunk_size=int(in_chunks))
    self._parts = Recorder(self.calls, width, traits), head, process
    self._embedder = TableEmbedder(table)
    self.model = self._bind(())
    self.models = Models(self.model)

  def _bind(self, state):
    network, head, process = self._parts
    facts = Facts((), state, self._embedder)
    if process is not None:
      process = process.refresh(facts)
    # Without a process it decodes left to right.
    view = View(structure=Full() if process is not None else Causal())
    return Bound(network, head, (), process, view, facts)

  def with_state(self, method_state):
    """The models of a method with a state."""
    return Models(self._bind(method_state))

  def run(self, function):
    """Calls `function` compiled -> (its result, the calls it made)."""
    self.calls.clear()
    result = jax.block_until_ready(jax.jit(function)())
    jax.effects_barrier()
    return result, list(self.calls)
