"""The parts of a block decoder; see `blocks`."""

import dataclasses
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import Array, Key, Mixture, PyTree, X
from textdiffusion.core.validation import check_fields
from textdiffusion.model import Model
from textdiffusion.nn.network import Cache, commit, write_at
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.autoregressive import prefilled_cache
from textdiffusion.samplers.base import Carry, draw_rows, take_at
from textdiffusion.samplers.filters import Filter
from textdiffusion.samplers.ordered import certainty, highest


class Proposal(NamedTuple):
  """A token for every position of a block.

  Attributes:
    ids: the tokens.
    log_prob: before the filter.
    score: by which proposals are committed.
  """

  ids: Int[Array, 'B n']
  log_prob: Float[Array, 'B n']
  score: Float[Array, 'B n']


@dataclasses.dataclass(frozen=True)
class Propose:
  """Draws from the filtered distribution of the network.

  Attributes:
    by: the score, which depends on the distribution and never on the token
      drawn: otherwise one token a call would not follow the law.
    filter: of p(x_i | z); its temperature 0 takes the most probable token.
  """

  by: Literal['confidence', 'margin', 'entropy'] = 'confidence'
  filter: Filter = Filter(temperature=0.0)

  def __post_init__(self) -> None:
    check_fields(self)

  def __call__(self, keys: Key, logits: Float[Array, 'B n K']) -> Proposal:
    """Returns a proposal; keys: [B]."""
    ids = draw_rows(keys, Categorical(self.filter(logits)))
    log_prob = Categorical(logits).log_prob(ids).astype(jnp.float32)
    return Proposal(ids, log_prob, certainty(self.by, logits))


@dataclasses.dataclass(frozen=True)
class Masks:
  """Open positions are shown to the network as masks."""

  def start(self, x: Int[Array, 'B L']) -> tuple[()]:
    """Returns what is remembered of a block before its first network call.

    x is the block with masks where tokens are still to be drawn.
    """
    return ()

  def inputs(
    self, process: RankOne, x: Int[Array, 'B L'], shown: tuple[()]
  ) -> Int[Array, 'B L']:
    """Returns the inputs of the network for tokens x."""
    return x

  def update(
    self,
    shown: tuple[()],
    places: Int[Array, 'B n'],
    logits: Float[Array, 'B n K'],
  ) -> tuple[()]:
    """Returns the state after a call with logits at `places`."""
    return shown


@dataclasses.dataclass(frozen=True)
class SoftMasks:
  """Open positions are shown as the mask mixed with probable tokens.

  Attributes:
    num: tokens that were most probable in the last call.
    share: weight of those tokens together; the mask has the rest.
  """

  num: int = 4
  share: float = 0.5

  def __post_init__(self) -> None:
    check_fields(self, num='[1, inf)', share='[0, 1]')

  def start(self, x: Int[Array, 'B L']) -> Mixture:
    shape = (*x.shape, self.num)
    return Mixture(jnp.zeros(shape, jnp.int32), jnp.zeros(shape))

  def inputs(
    self, process: RankOne, x: Int[Array, 'B L'], shown: Mixture
  ) -> Mixture:
    weights = jnp.where(process.is_mask(x)[..., None], shown.weights, 0.0)
    rest = 1 - weights.sum(-1, keepdims=True)
    ids = jnp.concatenate([x[..., None], shown.ids], -1)
    return Mixture(ids, jnp.concatenate([rest, weights], -1))

  def update(
    self,
    shown: Mixture,
    places: Int[Array, 'B n'],
    logits: Float[Array, 'B n K'],
  ) -> Mixture:
    probs, ids = jax.lax.top_k(jax.nn.softmax(logits), self.num)
    weights = self.share * probs / probs.sum(-1, keepdims=True)
    return jax.tree.map(
      lambda old, new: write_at(old, new, places), shown, Mixture(ids, weights)
    )


@dataclasses.dataclass(frozen=True)
class Count:
  """Commits the `tokens` proposals of highest score in each call."""

  tokens: int = 1

  def __post_init__(self) -> None:
    check_fields(self, tokens='[1, inf)')

  def __call__(
    self, score: Float[Array, 'B n'], is_open: Bool[Array, 'B n']
  ) -> Bool[Array, 'B n']:
    """Returns True where a proposal is committed."""
    return highest(score, is_open, self.tokens)


@dataclasses.dataclass(frozen=True)
class Threshold:
  """Commits proposals with a score of at least `least`, and always the highest
  one (Fast-dLLM, Wu et al. 2025)."""

  least: float = 0.9

  def __call__(
    self, score: Float[Array, 'B n'], is_open: Bool[Array, 'B n']
  ) -> Bool[Array, 'B n']:
    return (is_open & (score >= self.least)) | highest(score, is_open, 1)


@dataclasses.dataclass(frozen=True)
class Keep:
  """Committed tokens stay."""

  def __call__(
    self, logits: Float[Array, 'B n K'], x: Int[Array, 'B n']
  ) -> Bool[Array, 'B n']:
    """Returns True where a token is opened again."""
    return jnp.zeros(x.shape, bool)


@dataclasses.dataclass(frozen=True)
class Reopen:
  """Tokens whose probability is now below `below` are masked again."""

  below: float = 0.1

  def __post_init__(self) -> None:
    check_fields(self, below='[0, 1]')

  def __call__(
    self, logits: Float[Array, 'B n K'], x: Int[Array, 'B n']
  ) -> Bool[Array, 'B n']:
    return jnp.exp(Categorical(logits).log_prob(x)) < self.below


@dataclasses.dataclass(frozen=True)
class NoCache:
  """Every call computes the whole row."""

  closing_calls = 0  # calls in a block after its last token is committed

  def start(
    self,
    model: Model,
    x: Int[Array, 'B L'],
    lengths: Int[Array, ' B'],
    longest: int,
  ) -> tuple[PyTree, int]:
    """Returns the cache of the first `lengths` tokens, and its calls."""
    return (), 0

  def call(
    self,
    model: Model,
    carry: Carry,
    inputs: X | Mixture,
    places: Int[Array, 'B n'],
    t: Float[Array, 'B L'],
  ) -> tuple[PyTree, PyTree, Int[Array, ''] | int]:
    """Returns hidden states [B, n, D] at `places`, the cache and the calls.

    Args:
      model: of the network.
      carry: the state of the decoder.
      inputs: of the whole row.
      places: of the block.
      t: times of the whole row.
    """
    hidden, _ = model.hidden(inputs, t)
    return take_at(hidden, places), (), 1


@dataclasses.dataclass(frozen=True)
class ExactCache:
  """Decided blocks of a block-causal network, at one more call each."""

  closing_calls = 1

  def start(
    self,
    model: Model,
    x: Int[Array, 'B L'],
    lengths: Int[Array, ' B'],
    longest: int,
  ) -> tuple[PyTree, int]:
    cache = prefilled_cache(model, x, lengths, longest)
    return cache, int(longest > 0)

  def call(
    self,
    model: Model,
    carry: Carry,
    inputs: X | Mixture,
    places: Int[Array, 'B n'],
    t: Float[Array, 'B L'],
  ) -> tuple[PyTree, PyTree, Int[Array, ''] | int]:
    here = model.with_view(positions=places, segments=None)
    hidden, cache = here.hidden(*take_at((inputs, t), places), carry.cache)
    is_open = model.process.is_mask(take_at(carry.x, places))
    is_closing = ~is_open.any(-1, keepdims=True)
    keep = jnp.broadcast_to(is_closing, places.shape)
    return hidden, commit(cache, places, keep), 1


@dataclasses.dataclass(frozen=True)
class DualCache:
  """All tokens as they were when the block was begun, except the block's own.

  For networks that attend in both directions; an approximation (Fast-dLLM, Wu
  et al. 2025).
  """

  closing_calls = 0

  def start(
    self,
    model: Model,
    x: Int[Array, 'B L'],
    lengths: Int[Array, ' B'],
    longest: int,
  ) -> tuple[PyTree, int]:
    return model.new_cache(*x.shape), 0

  def call(
    self,
    model: Model,
    carry: Carry,
    inputs: X | Mixture,
    places: Int[Array, 'B n'],
    t: Float[Array, 'B L'],
  ) -> tuple[PyTree, PyTree, Int[Array, ''] | int]:
    is_new = carry.age == 0
    rows, length = carry.x.shape
    everywhere = jnp.broadcast_to(jnp.arange(length), (rows, length))

    def refresh(cache: PyTree) -> PyTree:
      whole = model.with_view(positions=everywhere, segments=None)
      _, fresh = whole.hidden(inputs, t, model.new_cache(rows, length))
      fresh = commit(fresh, everywhere, everywhere >= 0)
      return select_rows(is_new, fresh, cache)

    cache = jax.lax.cond(
      is_new.any(), refresh, lambda cache: cache, carry.cache
    )
    here = model.with_view(positions=places, segments=None)
    hidden, cache = here.hidden(*take_at((inputs, t), places), cache)
    return hidden, cache, 1 + is_new.any()


def select_rows(
  is_first: Bool[Array, ' B'], first: PyTree, second: PyTree
) -> PyTree:
  """Rows of one cache where True, of another elsewhere."""

  def select(a: Cache, b: Cache) -> Cache:
    rows = is_first[:, None, None, None]
    k, v = jax.tree.map(lambda a, b: jnp.where(rows, a, b), a[:2], b[:2])
    return Cache(k, v, jnp.where(is_first[:, None], a.is_valid, b.is_valid))

  is_cache = lambda node: isinstance(node, Cache)
  return jax.tree.map(select, first, second, is_leaf=is_cache)
