"""A network that records what it is called with."""

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.binding import bind
from textdiffusion.core.types import Condition, Denoiser

SIZE = 4  # of the features of a token


class Spy:
  """A `Denoiser` whose output is even, and the calls of it in their order.

  Attributes:
    calls: (x, t) of each call; t as the network receives it.
    model: the network as objectives and samplers take it.
  """

  def __init__(self, head, width, per_token=True, in_chunks=False):
    """head: (raw output, x, t) -> typed head. width: of the raw output.
    per_token: whether the network takes a time for each token. in_chunks:
    whether losses go through `Denoiser.each`."""
    self.calls = []

    def apply(params, x, t, condition):
      del params, condition
      record = lambda x, t: self.calls.append((np.asarray(x), np.asarray(t)))
      jax.debug.callback(record, x, jnp.asarray(t), ordered=True)
      return jnp.zeros((*x.shape[:2], width))

    def each(params, x, t, condition, loss, rows):
      return loss(apply(params, x, t, condition), rows)

    def decode(params, ids, cache, start, condition):
      return apply(params, ids, start, condition), cache

    table = jnp.linspace(-1.0, 1.0, 12 * SIZE).reshape(12, SIZE)
    network = Denoiser(
      init=lambda key: (),
      apply=apply,
      init_cache=lambda rows, length: jnp.zeros(rows),
      decode=decode,
      uses_time=True,
      num_states=12,
      table=lambda params: table,
      embed=lambda params, ids: table[ids],
      round=lambda params, x: x @ table.T,
      expect=lambda params, logits: jax.nn.softmax(logits) @ table[:width],
      tells_each=per_token,
      each=each if in_chunks else None,
    )
    self._bind = lambda state: bind(network, (), head, Condition(), state)
    self.model = self._bind(())

  def with_state(self, method_state):
    """The model of a method that remembers something."""
    return self._bind(method_state)

  def run(self, function):
    """Calls `function` compiled -> (its result, the calls it made)."""
    self.calls.clear()
    result = jax.block_until_ready(jax.jit(function)())
    jax.effects_barrier()
    return result, list(self.calls)
