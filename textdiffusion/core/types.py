"""Array aliases, errors, the typed heads of a denoiser, batches and protocols.

Shapes are given for one sequence and indexed from the right: `[L]` tokens,
`[L, K]` states, `[L, D]` features. Leading batch axes broadcast. A time is a
scalar or broadcasts against `[L]`; t = 0 is clean, t = 1 is noise, s < t.

Annotations state the same: `Float[Array, '... L K']` has any leading axes. The
tests check them in every call.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

Array = jax.Array
Key = jaxtyping.Key[Array, '...']  # one key, or one for each row
Time = Float[Array, '...'] | float | int
X = Shaped[Array, '...']  # int [L] for tokens, float [L, D] for features
PyTree = Any


class UserError(ValueError):
  """An error that the user can fix. Launchers print one line and exit with 2.

  Line breaks and other control characters in the message are escaped.
  """

  def __str__(self) -> str:
    return ''.join(
      c if c.isprintable() else c.encode('unicode_escape').decode()
      for c in super().__str__()
    )


class Interrupted(UserError):
  """An error that restarting the job may fix. Launchers exit with code 75."""


class Posterior(NamedTuple):
  """p(x_i | z), which cross-entropy trains.

  Attributes:
    logits: [L, K] unnormalised log probabilities.
  """

  logits: Float[Array, '... L K']


class Cavity(NamedTuple):
  """p(x_i | z without z_i), which the variational bound trains.

  Attributes:
    logits: [L, K] unnormalised log probabilities.
  """

  logits: Float[Array, '... L K']


class LogScore(NamedTuple):
  """log q_t(y) / q_t(z_i) for every state y.

  Attributes:
    value: [L, K] log ratios, 0 at y = z_i.
  """

  value: Float[Array, '... L K']


class Causal(NamedTuple):
  """p(x_i | x_0 ... x_{i-1}) of an autoregressive model.

  Attributes:
    logits: [L, K] unnormalised log probabilities.
  """

  logits: Float[Array, '... L K']


class Growth(NamedTuple):
  """FlexMDM's head: which token each mask becomes, and how many tokens are
  still to be inserted before each position.

  Attributes:
    logits: [L, K] of p(token | x_t) at masks.
    log_count: [L] log of the expected number of tokens still missing before
      each position; the first position after the text stands for the gap at
      its end.
  """

  logits: Float[Array, '... L K']
  log_count: Float[Array, '... L']


class Edits(NamedTuple):
  """Edit Flows' head: expected numbers of pending edits, and their tokens.

  Attributes:
    log_insert: [L] log of the expected number of insertions before each
      position; the first position after the text stands for its end.
    log_delete: [L] log of the expected number of deletions at each position.
    log_substitute: [L] log of the expected number of substitutions.
    logits_insert: [L, K] logits of the inserted token.
    logits_substitute: [L, K] logits of the new token of a substitution.
  """

  log_insert: Float[Array, '... L']
  log_delete: Float[Array, '... L']
  log_substitute: Float[Array, '... L']
  logits_insert: Float[Array, '... L K']
  logits_substitute: Float[Array, '... L K']


class X0(NamedTuple):
  """Estimate of the clean features.

  Attributes:
    value: [L, D].
  """

  value: Float[Array, '... L D']


class Eps(NamedTuple):
  """Estimate of the noise in x_t.

  Attributes:
    value: [L, D].
  """

  value: Float[Array, '... L D']


class Velocity(NamedTuple):
  """Estimate of sqrt(alpha) eps - sqrt(1 - alpha) x0 (Salimans & Ho 2022).

  Attributes:
    value: [L, D].
  """

  value: Float[Array, '... L D']


TokenHead = Posterior | Cavity | LogScore
FeatureHead = X0 | Eps | Velocity
EditHead = Growth | Edits
Head = TokenHead | FeatureHead | Causal | EditHead


class Vocab(NamedTuple):
  """The facts about a tokenizer that methods depend on.

  Attributes:
    size: number of ids, special tokens included.
    mask_id: id of the mask; None if the tokenizer has no such token.
    bos_id: id of the beginning of a text, or None.
    eos_id: id of the end of a text, or None.
    pad_id: id of the padding, or None.
    counts: number of occurrences of each id in the training split, for methods
      that need it; None otherwise.
  """

  size: int
  mask_id: int | None = None
  bos_id: int | None = None
  eos_id: int | None = None
  pad_id: int | None = None
  counts: tuple[int, ...] | None = None


class Batch(NamedTuple):
  """Rows of a global batch, as objectives take them.

  Attributes:
    ids: [B, L] clean tokens.
    segments: [B, L] document numbers, 0 at padding. Losses at 0 are ignored.
    positions: [B, L] positions in the text.
    rows: [B] indices in the global batch. Random keys are folded with them.
    u: [B] numbers in (0, 1), stratified over the global batch. Training times
      are functions of u, so they do not depend on sharding or accumulation.
    step: [B] training step, for losses that change during training, repeated in
      every row so that batches can be split; None outside training.
    is_given: [B, L] tokens that never get noise, such as a source before its
      target; None for no such tokens.
    source: [B, S] ids for the encoder; None without an encoder.
    source_segments: [B, S] document numbers of the source, 0 at padding.
    weights: [B, L] weights of the losses; None for 1.
    extra: further arrays that an objective needs, such as recorded trajectories
      or rewards, by name. The first axis of each is B.
  """

  ids: Int[Array, 'B L']
  segments: Int[Array, 'B L']
  positions: Int[Array, 'B L']
  rows: Int[Array, ' B']
  u: Float[Array, ' B']
  step: Int[Array, ' B'] | None = None
  is_given: Bool[Array, 'B L'] | None = None
  source: Int[Array, 'B S'] | None = None
  source_segments: Int[Array, 'B S'] | None = None
  weights: Float[Array, 'B L'] | None = None
  extra: dict[str, Shaped[Array, 'B ...']] | None = None

  @classmethod
  def of(
    cls,
    rows: Mapping[str, Shaped[Array, 'B ...']],
    u: Float[Array, ' B'],
    step: Int[Array, ' B'] | None = None,
  ) -> 'Batch':
    """Builds a batch from the arrays of a data pipeline.

    Args:
      rows: arrays by name; names that are no fields are ignored.
      u: [B] numbers in (0, 1) for training times.
      step: [B] training step, or None.

    Raises:
      AssertionError: arrays [B, L] differ in their shapes.
    """
    import chex  # Here, as importing it takes 0.1 s.

    names = set(cls._fields) & set(rows)
    fields: dict[str, Any] = {name: rows[name] for name in names}
    batch = cls(**fields, u=u, step=step)
    tokens = (batch.ids, batch.segments, batch.positions, batch.is_given)
    chex.assert_equal_shape(
      [x for x in (*tokens, batch.weights) if x is not None]
    )
    return batch

  @property
  def is_counted(self) -> Bool[Array, 'B L']:
    """[B, L], True where losses count: not at padding or given tokens."""
    return is_counted(self.segments, self.is_given)

  @property
  def prompt(self) -> Int[Array, ' B']:
    """[B] number of given tokens at the start of each row."""
    if self.is_given is None:
      return jnp.zeros(len(self.ids), jnp.int32)
    return leading(self.is_given)

  def block(self, start: Int[Array, ' B'], size: int) -> 'Batch':
    """Returns the batch that trains on one block of each row.

    Args:
      start: [B] first position of the block. Tokens before it become given, and
        no token attends to those after the block.
      size: number of tokens in the block.
    """
    offset = jnp.arange(self.ids.shape[1])[None] - start[:, None]
    is_before = offset < 0
    given = is_before if self.is_given is None else self.is_given | is_before
    segments = jnp.where(offset < size, self.segments, 0)
    return self._replace(segments=segments, is_given=given)


def leading(is_given: Bool[Array | np.ndarray, '... L']) -> Any:
  """Returns [...] numbers of given tokens before the first not given one."""
  return is_given.astype(jnp.int32).cumprod(-1).sum(-1)


def is_counted(
  segments: Int[Array | np.ndarray, '... L'],
  is_given: Bool[Array | np.ndarray, '... L'] | None,
) -> Any:
  """Returns where losses count, [..., L], in the arrays' own library."""
  return segments > 0 if is_given is None else (segments > 0) & ~is_given


class Mixture(NamedTuple):
  """A mixture of a few tokens in place of one token.

  Attributes:
    ids: [..., k] tokens.
    weights: [..., k] weights of their embeddings.
  """

  ids: Int[Array, '... k']
  weights: Float[Array, '... k']


class Features(NamedTuple):
  """The learnt embeddings of tokens, for methods with continuous noise.

  Attributes:
    size: D, numbers in an embedding.
    std: standard deviation of the embeddings at initialisation.
    rounding: how features are turned into token logits: 'dot' is the product
      with the embeddings plus a bias, 'distance' is minus the distance.
    self_condition: whether the network also takes its last estimate of x0. Its
      inputs are then [L, 2 D].
    predicts: what the network outputs: features, or token logits ('tokens').
    norm: how embeddings are normalised: 'root' to mean square 1 (Dieleman et
      al. 2022), 'layer' to mean 0 and mean square 1, 'unit' to length 1.
  """

  size: int
  std: float = 1.0
  rounding: Literal['dot', 'distance'] = 'dot'
  self_condition: bool = False
  predicts: Literal['features', 'tokens'] = 'features'
  norm: Literal['none', 'root', 'layer', 'unit'] = 'none'

  @property
  def inputs(self) -> int:
    """Numbers that the network takes per token."""
    return 2 * self.size if self.self_condition else self.size


class Embedder(Protocol):
  """The token embeddings of a network, with their parameters.

  Attributes:
    table: [K, D] embeddings; None if they are not stored as a table.
    is_input: whether the network takes these features as inputs. If False, it
      takes ids.
    self_condition: whether the network also takes its last estimate: [L, 2 D]
      inputs.
  """

  @property
  def table(self) -> Float[Array, 'K D'] | None: ...
  @property
  def is_input(self) -> bool: ...
  @property
  def self_condition(self) -> bool: ...
  def embed(self, ids: Int[Array, '... L']) -> Float[Array, '... L D']:
    """Returns the features [L, D] of ids [L]."""
    ...

  def logits(
    self, features: Float[Array, '... L D']
  ) -> Float[Array, '... L K']:
    """Returns token logits [L, K] of features [L, D]."""
    ...

  def expected(
    self, logits: Float[Array, '... L K']
  ) -> Float[Array, '... L D']:
    """Returns the mean features [L, D] under token logits [L, K]."""
    ...


class Facts(NamedTuple):
  """The trained values that a process and a method state may depend on.

  Attributes:
    method_params: parameters of the method, beside those of the network.
    method_state: state of the method between training steps; () for no state.
    embedder: token embeddings of the network.
  """

  method_params: PyTree = ()
  method_state: PyTree = ()
  embedder: Embedder | None = None

  @property
  def table(self) -> Float[Array, 'K D'] | None:
    """[K, D] token embeddings, or None."""
    return None if self.embedder is None else self.embedder.table


class Dist(Protocol):
  """The contract of a distribution, for reverse steps, bounds and guidance."""

  def sample(self, key: Key, shape: tuple[int, ...] = ()) -> X:
    """Returns draws with `shape` as their leading axes."""
    ...

  def log_prob(self, x: X) -> Float[Array, '...']:
    """Returns the log probability of x, elementwise, in nats."""
    ...

  def kl(self, other: Self) -> Float[Array, '...']:
    """Returns KL(self || other), elementwise, in nats."""
    ...


class Process(Protocol):
  """A forward process q_t(. | x0) and its time reversal."""

  def prior(self) -> Dist:
    """Returns the distribution of one token at t = 1, the same for every x0."""
    ...

  def marginal(self, x0: X, t: Time) -> Dist:
    """Returns q_t(. | x0); token processes take ids [L] or logits [L, K]."""
    ...

  def corrupt(self, key: Key, x0: X, t: Time) -> X:
    """Draws from `marginal` without building an array [L, K]."""
    ...

  def clean(self, x0: X) -> Head:
    """Returns the head of a perfect prediction, whose `bridge` is exact."""
    ...

  def bridge(self, head: Any, xt: X, s: Time, t: Time) -> Dist:
    """Returns the reverse step q(x_s | x_t, head).

    Args:
      head: any head that the process takes, at x_t.
      xt: noisy tokens or features.
      s: end of the step, s < t.
      t: start of the step.
    """
    ...

  def refresh(self, facts: Facts) -> 'Process':
    """Returns the process with its current, trained parameters and state."""
    ...


Transition = Callable[[Any, X, Time, Time], Dist]  # (head, x_t, s, t)
