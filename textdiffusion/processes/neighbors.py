"""Random-walk noise among the neighbours of a token, by sparse products.

The nearest-neighbour noise of D3PM (Austin et al. 2021, A.2.5). Let A be the k
nearest neighbours of each embedding. The rates are R = (A + A') / 2k off the
diagonal, with columns that sum to 0, and q_{t|s} = exp((tau_t - tau_s) R). By
uniformisation

  exp(tau R) = sum_j Poisson(j; c tau) P^j,  P = I + R / c,

where P is a stochastic matrix with 2k entries per column on average, and c is
the largest rate out of a token. All terms are positive, so probabilities keep
their relative precision. With l = c tau the sum ends after l + 6 sqrt(l) + 12
terms (a tail below 1e-9), and each term takes one sparse product over
[K, tokens]. Only the graph is stored: [K, k] ids and the transpose. A draw
follows the jumps of each token and builds no array over the vocabulary.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log_one_hot, match_ranks, pytree, static
from textdiffusion.core.types import Array, Facts, Key, Time
from textdiffusion.processes.grid import GridProcess, identity, safe_log


class Graph(NamedTuple):
  """A directed graph of tokens, with its edges sorted by start and by end.

  Attributes:
    out: [K, k] neighbours of each token; an isolated token has itself k times.
    sources: [K k] starts of the edges, sorted by the ends of the edges.
    starts: [K + 1] offsets; the edges that end at token i start at
      sources[starts[i] : starts[i + 1]].
  """

  out: Int[Array, 'K k']
  sources: Int[Array, ' K*k']
  starts: Int[Array, ' K+1']

  @property
  def rates(self) -> Float[Array, ' K']:
    """[K] rates out of each token, including edges to itself."""
    count = self.out.shape[1]
    return (count + jnp.diff(self.starts)).astype(float) / (2 * count)


def graph_of(out: Int[Array, 'K k']) -> Graph:
  """Builds the graph of [K, k] neighbours, with its transpose."""
  size, count = out.shape
  ends = out.reshape(-1)
  order = jnp.argsort(ends)
  starts = jnp.searchsorted(ends[order], jnp.arange(size + 1))
  return Graph(
    out.astype(jnp.int32),
    (order // count).astype(jnp.int32),
    starts.astype(jnp.int32),
  )


def nearest(
  table: Float[Array, 'K D'],
  count: int,
  mask_id: int | None = None,
  chunk: int = 512,
) -> Int[Array, 'K {count}']:
  """Finds the nearest other tokens by angle, the nearest first.

  The mask is no neighbour of any token, and has only itself as neighbour.

  Args:
    table: [K, D] token embeddings.
    count: number of neighbours, k.
    mask_id: id of the mask, or None.
    chunk: rows of the [K, K] similarities that are in memory at a time.

  Returns:
    [K, k] ids.
  """
  table = jax.lax.stop_gradient(table).astype(float)
  norm = jnp.linalg.norm(table, axis=-1, keepdims=True)
  table = table / jnp.maximum(norm, jnp.finfo(table.dtype).tiny)
  size = len(table)
  ids = jnp.arange(size)

  def neighbors_of_rows(start: Int[Array, '']) -> Int[Array, 'n k']:
    rows = jnp.minimum(start + jnp.arange(min(chunk, size)), size - 1)
    near = jnp.matmul(table[rows], table.T, precision='highest')
    is_barred = ids[None] == rows[:, None]
    if mask_id is not None:
      is_barred |= ids[None] == mask_id
    return jax.lax.top_k(jnp.where(is_barred, -jnp.inf, near), count)[1]

  found = jax.lax.map(neighbors_of_rows, jnp.arange(0, size, chunk))
  found = found.reshape(-1, count)[:size]
  if mask_id is not None:
    found = jnp.where(ids[:, None] == mask_id, mask_id, found)
  return found.astype(jnp.int32)


def band(
  num_states: int, width: int, mask_id: int | None = None
) -> Int[np.ndarray, '{num_states} {width-1}']:
  """Returns the tokens around each token in id order, reflected at the ends.

  With reflection the walk is symmetric and the uniform distribution is
  stationary. For the paper's band with normalised columns this does not hold
  near the ends.

  Args:
    num_states: number of states of a token, K.
    width: width of the band, an odd number.
    mask_id: id of the mask, which has only itself as neighbour; or None.

  Returns:
    [K, width - 1] ids.
  """
  tokens = np.arange(num_states)
  if mask_id is not None:
    tokens = np.delete(tokens, mask_id)
  size = len(tokens)
  offsets = np.delete(np.arange(width) - width // 2, width // 2)
  there = (np.arange(size)[:, None] + offsets) % (2 * size)
  there = np.where(there < size, there, 2 * size - 1 - there)
  out = np.tile(np.arange(num_states)[:, None], len(offsets))
  out[tokens] = tokens[there]
  return out.astype(np.int32)


@pytree
class Neighbors(GridProcess):
  """A random walk on a graph of tokens.

  Attributes:
    exponents: [T + 1] tau_i, the first of them 0.
    graph: the graph; None until `refresh` if `follows`.
    num_states: number of states of a token, K.
    num_steps: number of steps, T.
    mask_id: id of the mask, or None.
    count: number of neighbours of a token, k, if `follows`.
    follows: whether the graph is that of the model's nearest embeddings.
      `refresh` then takes it from the method state, or builds it.
  """

  exponents: Float[Array, ' {num_steps}+1']
  graph: Graph | None
  num_states: int = static()  # ty: ignore[incompatible-attribute-override]
  num_steps: int = static()  # ty: ignore[incompatible-attribute-override]
  mask_id: int | None = static()  # ty: ignore[incompatible-attribute-override]
  count: int = static(default=0)
  follows: bool = static(default=False)

  def refresh(self, facts: Facts) -> 'Neighbors':
    """Returns the process with the graph of the method state or embeddings.

    Raises:
      TypeError: the model has no table of embeddings.
    """
    if not self.follows:
      return self
    graph = facts.method_state
    if not isinstance(graph, Graph):
      if facts.table is None:
        raise TypeError(
          'nearest-neighbour noise needs a model with a table of embeddings'
        )
      graph = graph_of(nearest(facts.table, self.count, self.mask_id))
    return Neighbors(
      self.exponents, graph, self.num_states, self.num_steps, self.mask_id
    )

  def marginal(
    self, x0: Int[Array, '...'] | Float[Array, '... K'], t: Time
  ) -> Categorical:
    """Returns q_t(. | x0), [L, K], for ids [L] or clean logits [L, K]."""
    clean, i = self.clean_log_probs(x0), self.place(t)
    logits = self._walked(clean, self.exponents[i])
    return Categorical(identity(clean, logits, i == 0))

  def column(
    self, z: Int[Array, '... L'], s: Time, t: Time
  ) -> Float[Array, '... L K']:
    """Returns log q_{t|s}(z | y) for every y, [L, K], a symmetric kernel."""
    z, s, t = match_ranks(z, s, t)
    first, last = self.place(s), self.place(t)
    one_hot = log_one_hot(z, self.num_states).astype(self.exponents.dtype)
    span = self.exponents[last] - self.exponents[first]
    return identity(z, self._walked(one_hot, span), first == last)

  def corrupt(
    self, key: Key, x0: Int[Array, '... L'], t: Time
  ) -> Int[Array, '... L']:
    """Draws noisy tokens [L], jump by jump."""
    graph = self._graph()
    rates, count = graph.rates, graph.out.shape[1]
    most = rates.max()
    mean = jnp.broadcast_to(most * self.exponents[self.place(t)], x0.shape)
    key_count, key_jumps = jax.random.split(key)
    jumps = jax.random.poisson(key_count, mean)
    jumps = jnp.minimum(jumps, _num_terms(mean) - 1)

    def jump(j: Int[Array, ''], x: Int[Array, '... L']) -> Int[Array, '... L']:
      u = jax.random.uniform(jax.random.fold_in(key_jumps, j), (2, *x.shape))
      # One of 2k c places is drawn; the token stays if no edge has that place.
      pick = u[0] * most * 2 * count
      place = pick.astype(int)
      start, end = graph.starts[x], graph.starts[x + 1]
      forth = graph.out[x, jnp.minimum(place, count - 1)]
      last = len(graph.sources) - 1
      back = graph.sources[jnp.clip(start + place - count, 0, last)]
      there = jnp.where(place < count, forth, back)
      is_move = place < count + end - start
      return jnp.where(is_move & (j < jumps), there, x)

    x = jax.lax.fori_loop(0, jumps.max(), jump, x0.astype(jnp.int32))
    return x.astype(x0.dtype)

  def _walked(
    self, log_p: Float[Array, '... L K'], exponents: Float[Array, '...']
  ) -> Float[Array, '... L K']:
    """Applies exp(tau R) to [L, K] log probabilities; tau is [L], [1] or []."""
    graph = self._graph()
    shape = log_p.shape
    mean = graph.rates.max() * jnp.broadcast_to(exponents, shape[:-1])
    columns = jnp.exp(log_p).reshape(-1, shape[-1]).T
    out = _walk(columns, mean.reshape(-1).astype(log_p.dtype), graph)
    return safe_log(out.T.reshape(shape))

  def _graph(self) -> Graph:
    if self.graph is None:
      raise TypeError(
        'this process follows the embeddings: call refresh before using it'
      )
    return self.graph


@jax.custom_vjp
def _walk(
  columns: Float[Array, 'K N'], mean: Float[Array, ' N'], graph: Graph
) -> Float[Array, 'K N']:
  """Returns sum_j Poisson(j; mean) P^j x for every column x: [K, N].

  P is symmetric, so the gradient is the same walk applied to the cotangent.

  Args:
    columns: [K, N] probabilities.
    mean: [N] mean numbers of jumps.
    graph: the graph.
  """
  rates, count = graph.rates[:, None].astype(mean.dtype), graph.out.shape[1]
  most = rates.max()
  stay = 1 - rates / most
  scale = 1 / (2 * count * most)

  def product(x: Float[Array, 'K N']) -> Float[Array, 'K N']:
    def edge(
      c: Int[Array, ''], total: Float[Array, 'K N']
    ) -> Float[Array, 'K N']:
      ends = graph.out[:, c]
      return (total + scale * x[ends]).at[ends].add(scale * x)

    return jax.lax.fori_loop(0, count, edge, stay * x)

  def term(
    j: Int[Array, ''], both: tuple[Float[Array, 'K N'], Float[Array, 'K N']]
  ) -> tuple[Float[Array, 'K N'], Float[Array, 'K N']]:
    x, total = both
    x = product(x)
    return x, total + jnp.exp(_log_poisson(j, mean))[None] * x

  first = columns, jnp.exp(-mean)[None] * columns
  return jax.lax.fori_loop(1, _num_terms(mean).max(), term, first)[1]


def _walk_forward(
  columns: Float[Array, 'K N'], mean: Float[Array, ' N'], graph: Graph
):
  return _walk(columns, mean, graph), (mean, graph)


def _walk_backward(
  kept: tuple[Float[Array, ' N'], Graph], cotangent: Float[Array, 'K N']
):
  mean, graph = kept
  return _walk(cotangent, mean, graph), None, None


_walk.defvjp(_walk_forward, _walk_backward)


def _num_terms(mean: Float[Array, '*shape']) -> Int[Array, '*shape']:
  """Returns the number of terms of the sum over jumps.

  It is subadditive in the mean. So tokens reached by one walk are also reached
  by two walks of the same total length.
  """
  most = jnp.ceil(mean + 6 * jnp.sqrt(mean) + 12).astype(int)
  return jnp.where(mean > 0, most + 1, 1)


def _log_poisson(
  j: Int[Array, ''], mean: Float[Array, '*shape']
) -> Float[Array, '*shape']:
  """Returns log Poisson(j; mean), j >= 1, precisely (Loader 2000)."""
  j = jnp.asarray(j, mean.dtype)
  some = jnp.where(mean > 0, mean, 1.0)
  excess = (j - some) / some
  deviance = some * ((1 + excess) * jnp.log1p(excess) - excess)
  inverse = 1 / j
  # The error of Stirling's formula for log j!, exactly or by its series.
  formula = (j + 0.5) * jnp.log(j) - j + 0.5 * math.log(2 * math.pi)
  series = inverse / 12 - inverse**3 / 360 + inverse**5 / 1260
  series -= inverse**7 / 1680
  error = jnp.where(j < 16, jax.lax.lgamma(j + 1) - formula, series)
  log_p = -deviance - error - 0.5 * jnp.log(2 * math.pi * j)
  return jnp.where(mean > 0, log_p, -jnp.inf)


def neighbors(
  num_states: int,
  betas: Float[np.ndarray, ' T'],
  out: Int[np.ndarray | Array, 'K k'],
  mask_id: int | None = None,
) -> Neighbors:
  """Builds a random walk on a given graph.

  Args:
    num_states: number of states of a token, K.
    betas: [T] duration of each step.
    out: [K, k] neighbours of each token.
    mask_id: id of the mask, or None.
  """
  exponents = jnp.asarray(np.concatenate([[0.0], np.cumsum(betas)]))
  graph = graph_of(jnp.asarray(out))
  return Neighbors(exponents, graph, num_states, len(betas), mask_id)


def following(
  num_states: int,
  betas: Float[np.ndarray, ' T'],
  count: int,
  mask_id: int | None = None,
) -> Neighbors:
  """Builds a random walk among the nearest embeddings of the model.

  Args:
    num_states: number of states of a token, K.
    betas: [T] duration of each step.
    count: number of neighbours of a token, k.
    mask_id: id of the mask, or None.
  """
  exponents = jnp.asarray(np.concatenate([[0.0], np.cumsum(betas)]))
  return Neighbors(
    exponents, None, num_states, len(betas), mask_id, count, follows=True
  )
