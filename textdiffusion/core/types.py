"""Array aliases, the typed heads of a denoiser, and the function types.

Shapes are written for one sequence and indexed from the right: `[L]` tokens,
`[L, K]` states, `[L, D]` features. Any leading batch axes broadcast. A time is
a scalar or broadcasts against `[L]`; t = 0 is clean, t = 1 is noise, s < t.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

Array = jax.Array
Key = jax.Array
Time = jax.Array | float
X = Array  # int [L] for tokens, float [L, D] for features
PyTree = Any
C = TypeVar('C')


class UserError(ValueError):
  """A mistake the user can mend: launchers print it as one line, exit 2.

  Line ends and other control characters of what the user gave are escaped, so
  that it is one line.
  """

  def __str__(self) -> str:
    return ''.join(
      c if c.isprintable() else c.encode('unicode_escape').decode()
      for c in super().__str__()
    )


class Interrupted(UserError):
  """What another start may get past: launchers exit 75."""


class Posterior(NamedTuple):
  """p(x_i | z), what cross-entropy learns. logits: [L, K], unnormalised."""

  logits: Array


class Cavity(NamedTuple):
  """p(x_i | z without z_i), what the bound learns. logits: [L, K]."""

  logits: Array


class LogScore(NamedTuple):
  """log q_t(y) / q_t(z_i) for every state y, 0 at y = z_i. value: [L, K]."""

  value: Array


class Causal(NamedTuple):
  """p(x_i | x_0 ... x_{i-1}), left to right. logits: [L, K]."""

  logits: Array


class Growth(NamedTuple):
  """FlexMDM's head: which token each mask becomes, and how many tokens are
  still to be inserted before each position.

  Attributes:
    logits: [L, K] of p(token | x_t) at masks.
    log_count: [L] log of the expected number of tokens still missing before
      each position; the first position after the text stands for the gap at
      its end.
  """

  logits: Array
  log_count: Array


class Edits(NamedTuple):
  """Which edits of x_t are still to be made, Edit Flows.

  Each is the log of an expected number of pending edits, [L]: insertions before
  a position (the first one after the text stands for its end), deletions and
  substitutions of its token. logits_insert, logits_substitute: [L, K] as what.
  """

  log_insert: Array
  log_delete: Array
  log_substitute: Array
  logits_insert: Array
  logits_substitute: Array


class X0(NamedTuple):
  """Estimate of the clean features. value: [L, D]."""

  value: Array


class Eps(NamedTuple):
  """Estimate of the noise in x_t. value: [L, D]."""

  value: Array


class Velocity(NamedTuple):
  """sqrt(alpha) eps - sqrt(1 - alpha) x0, Salimans & Ho 2022. value: [L, D]."""

  value: Array


TokenHead = Posterior | Cavity | LogScore
FeatureHead = X0 | Eps | Velocity
EditHead = Growth | Edits
Head = TokenHead | FeatureHead | Causal | EditHead


class Vocab(NamedTuple):
  """What a method needs to know of a tokenizer; an absent special is None.

  size counts every id, specials included. counts: how often each id stands in
  the training split, where a method asks for it.
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
    segments: [B, L] document numbers, 0 at padding; losses at 0 do not count.
    positions: [B, L] positions in the text.
    rows: [B] indices in the global batch; keys are folded with them.
    u: [B] numbers in (0, 1), stratified over the global batch. A training time
      is a function of u, so a change of layout or accumulation moves nothing.
    step: [B] the training step, the same in every row (so that a batch splits
      as one), for losses that change during training; None outside training.
    is_given: [B, L] tokens that are never noise, such as a source before its
      target; None where there are none.
    source: [B, S] ids that an encoder reads; None without an encoder.
    source_segments: [B, S] document numbers of the source, 0 at padding.
    weights: [B, L] weights of the losses; None for 1.
    extra: arrays that an objective needs beside these, such as recorded
      trajectories or rewards, by name; each leads with B.
  """

  ids: Array
  segments: Array
  positions: Array
  rows: Array
  u: Array
  step: Array | None = None
  is_given: Array | None = None
  source: Array | None = None
  source_segments: Array | None = None
  weights: Array | None = None
  extra: dict[str, Array] | None = None

  @classmethod
  def of(
    cls, rows: Mapping[str, Array], u: Array, step: Array | None = None
  ) -> 'Batch':
    """Builds a batch from the arrays of a data pipeline."""
    names = set(cls._fields) & set(rows)
    fields: dict[str, Any] = {name: rows[name] for name in names}
    return cls(**fields, u=u, step=step)

  @property
  def is_counted(self) -> Array:
    """[B, L], True where losses count: neither padding nor given."""
    return is_counted(self.segments, self.is_given)

  @property
  def prompt(self) -> Array:
    """[B] given tokens that rows begin with."""
    if self.is_given is None:
      return jnp.zeros(len(self.ids), jnp.int32)
    return leading(self.is_given)

  def block(self, start: Array, size: int) -> 'Batch':
    """The batch with one block of each row to be generated.

    Args:
      start: [B] first token of the block. Tokens before it are given, and no
        token attends to those after the block.
      size: tokens of the block.
    """
    since = jnp.arange(self.ids.shape[1]) - start[:, None]
    given = since < 0 if self.is_given is None else self.is_given | (since < 0)
    segments = jnp.where(since < size, self.segments, 0)
    return self._replace(segments=segments, is_given=given)


def leading(is_given: Any) -> Any:
  """[B, L] -> [B] how many are given before the first that is not; of JAX and
  NumPy arrays alike."""
  return is_given.astype(jnp.int32).cumprod(-1).sum(-1)


def is_counted(segments: Any, is_given: Any) -> Any:
  """Of JAX and NumPy arrays alike."""
  return segments > 0 if is_given is None else (segments > 0) & ~is_given


class Mixture(NamedTuple):
  """A few tokens in place of one: ids [..., k] and their weights [..., k]."""

  ids: Array
  weights: Array


class Features(NamedTuple):
  """What stands for a token where noise is continuous: a learnt embedding.

  size: D. std: of the embeddings at first. rounding: how logits of tokens come
  of features, a product with the embeddings and a bias, or minus the distance.
  self_condition: the network also sees its last estimate, [L, 2 D] in all.
  says: features, or logits of tokens. norm: of an embedding, `root` makes its
  mean square 1 (Dieleman et al. 2022), `layer` its mean 0 too, `unit` its
  length 1.
  """

  size: int
  std: float = 1.0
  rounding: Literal['dot', 'distance'] = 'dot'
  self_condition: bool = False
  says: Literal['features', 'tokens'] = 'features'
  norm: Literal['none', 'root', 'layer', 'unit'] = 'none'

  @property
  def inputs(self) -> int:
    """Numbers that the network is shown of a token."""
    return 2 * self.size if self.self_condition else self.size


class Embedder(Protocol):
  """Token embeddings of a network, with its parameters.

  Attributes:
    table: [K, D]; None where embeddings are no table.
    is_input: True where the network takes these features, False where it takes
      ids.
    self_condition: whether the network takes its last estimate too, [L, 2 D].
  """

  @property
  def table(self) -> Array | None: ...
  @property
  def is_input(self) -> bool: ...
  @property
  def self_condition(self) -> bool: ...
  def embed(self, ids: Array) -> Array:
    """ids [L] -> features [L, D]."""
    ...

  def logits(self, features: Array) -> Array:
    """Features [L, D] -> token logits [L, K]."""
    ...

  def expected(self, logits: Array) -> Array:
    """Token logits [L, K] -> their mean features [L, D]."""
    ...


class Facts(NamedTuple):
  """What a process and a method state may depend on, beside their own settings.

  Attributes:
    method_params: parameters of the method beside those of the network.
    method_state: state of the method between training steps; () where it has
      none.
    embedder: token embeddings of the network.
  """

  method_params: PyTree = ()
  method_state: PyTree = ()
  embedder: Embedder | None = None

  @property
  def table(self) -> Array | None:
    """[K, D] token embeddings, or None."""
    return None if self.embedder is None else self.embedder.table


class Dist(Protocol):
  """What the reverse step, the bound and guidance need of a distribution."""

  def sample(self, key: Key, shape: tuple[int, ...] = ()) -> Array: ...
  def log_prob(self, x: Array) -> Array: ...
  def kl(self, other: Any) -> Array: ...


class Process(Protocol):
  """A forward process q_t(. | x0) and its time reversal."""

  def prior(self) -> Dist:
    """q_1 of one token, the same for every x0."""
    ...

  def marginal(self, x0: Array, t: Time) -> Dist:
    """q_t(. | x0); token processes take ids [L] or clean logits [L, K]."""
    ...

  def corrupt(self, key: Key, x0: X, t: Time) -> X:
    """A draw from `marginal` that never builds [L, K]."""
    ...

  def clean(self, x0: X) -> Head:
    """The head that knows the answer: bridge(clean(x0), ...) is exact."""
    ...

  def bridge(self, head: Any, xt: X, s: Time, t: Time) -> Dist:
    """q(x_s | x_t, head) for any s < t."""
    ...

  def refresh(self, facts: Facts) -> 'Process':
    """The process as it is now, where it is learnt or follows the training."""
    ...


DenoiseFn = Callable[[X, Time], Head]
Transition = Callable[[Any, X, Time, Time], Dist]  # (head, x_t, s, t)
Step = Callable[[Key, C, Time, Time], C]
