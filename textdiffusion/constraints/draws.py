"""Draws whole rows that an automaton accepts, from independent tokens.

Given probabilities of each token of a row, the law of rows is their product,
restricted to what the automaton accepts. A backward pass sums it over what can
follow each state, a forward pass draws from it exactly. Both work on classes of
tokens, of which there are few.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from textdiffusion.constraints.automaton import Automaton
from textdiffusion.core.numerics import draw, match_ranks, pytree
from textdiffusion.core.types import Array, Key

# Least probability of a class of tokens, so that rounding to 0 forbids none: a
# token that the automaton requires is drawn even if it is very improbable.
_FLOOR = 1e-36
_LEAST = -1e4  # in nats, of a token in its class


@pytree
class Acceptor:
  """An automaton with the labels of the places of rows, on the device.

  Attributes:
    table, classes, accepts, start: see `Automaton`.
    labels: label of each place.
  """

  table: Int[Array, 'R S C']
  classes: Int[Array, ' K']
  accepts: Bool[Array, ' S']
  labels: Int[Array, 'B L']
  start: Int[Array, '']

  @classmethod
  def of(
    cls, automaton: Automaton, labels: Int[Array | np.ndarray, 'B L']
  ) -> 'Acceptor':
    """Moves an automaton to the device."""
    parts = automaton.table, automaton.classes, automaton.accepts, labels
    start = jnp.asarray(automaton.start, jnp.int32)
    return cls(*map(jnp.asarray, parts), start)


class Drawn(NamedTuple):
  """Rows from the restricted law.

  Attributes:
    ids: tokens.
    log_prob: log-probability of each token in the restricted law, given those
      to its left.
    log_mass: log-probability that a row of the product is accepted.
  """

  ids: Int[Array, 'B L']
  log_prob: Float[Array, 'B L']
  log_mass: Float[Array, ' B']


def draw_accepted(
  keys: Key,
  acceptor: Acceptor,
  logits: Float[Array, 'B L K'],
  x: Int[Array, 'B L'],
  is_free: Bool[Array, 'B L'],
) -> Drawn:
  """Draws rows from the product of the tokens, restricted to accepted rows.

  Args:
    keys: [B].
    acceptor: what is accepted. Some row has to be, with the fixed tokens.
    logits: of the free tokens.
    x: the other tokens.
    is_free: True at the free tokens.
  """
  # Nothing is forbidden but by the automaton, whatever a filter cuts off.
  log_p = jnp.maximum(jax.nn.log_softmax(logits), _LEAST)
  one = lambda key, log_p, x, is_free, labels: _one(
    key, acceptor, labels, log_p, x, is_free
  )
  labels = jnp.broadcast_to(acceptor.labels, x.shape)
  return Drawn(*jax.vmap(one)(keys, log_p, x, is_free, labels))


def _one(
  key: Key,
  acceptor: Acceptor,
  labels: Int[Array, ' L'],
  log_p: Float[Array, 'L K'],
  x: Int[Array, ' L'],
  is_free: Bool[Array, ' L'],
) -> tuple[Int[Array, ' L'], Float[Array, ' L'], Float[Array, '']]:
  """`draw_accepted` for a row."""
  table, classes = acceptor.table, acceptor.classes
  mass = class_masses(log_p, classes, table.shape[2])
  here = jax.nn.one_hot(classes[x], table.shape[2])
  mass = jnp.where(is_free[:, None], mass, jnp.log(here))
  end = jnp.where(acceptor.accepts, 0.0, -jnp.inf)

  def back(
    after: Float[Array, ' S'], place: tuple[Array, Array]
  ) -> tuple[Float[Array, ' S'], Float[Array, ' S']]:
    label, mass = place
    step, mass = match_ranks(after[table[label]], mass)
    return jax.nn.logsumexp(mass + step, axis=-1), after

  first, afters = jax.lax.scan(back, end, (labels, mass), reverse=True)
  key_class, key_token = jax.random.split(key)
  keys = jax.random.split(key_class, len(x))

  def choose(
    state: Int[Array, ''], place: tuple[Key, Array, Array, Array]
  ) -> tuple[Int[Array, ''], tuple[Int[Array, ''], Float[Array, '']]]:
    key, label, mass, after = place
    states = table[label, state]
    score = mass + after[states]
    chosen = draw(key, score)
    return states[chosen], (chosen, jax.nn.log_softmax(score)[chosen])

  _, (chosen, log_class) = jax.lax.scan(
    choose, acceptor.start, (keys, labels, mass, afters)
  )
  inside = jnp.where(classes[None] == chosen[:, None], log_p, -jnp.inf)
  token = draw(key_token, inside)
  log_prob = log_class + jax.nn.log_softmax(inside)[jnp.arange(len(x)), token]
  ids = jnp.where(is_free, token, x)
  return ids, jnp.where(is_free, log_prob, 0.0), first[acceptor.start]


def class_masses(
  log_p: Float[Array, 'L K'], classes: Int[Array, ' K'], count: int
) -> Float[Array, 'L C']:
  """Returns the log-probability of each class."""
  # A product with a matrix of zeros and ones: accelerators are slow at sums
  # over segments.
  member = jax.nn.one_hot(classes, count, dtype=log_p.dtype)
  mass = jnp.matmul(jnp.exp(log_p), member, precision='highest')
  return jnp.log(jnp.maximum(mass, _FLOOR))
