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
  """What a sequence that grows by masks is told of, FlexMDM.

  logits: [L, K] of p(token | x_t) at masks. log_count: [L] log of the expected
  number of tokens still missing before each position; the first position after
  the text stands for the gap at its end.
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
# (raw output [B, L, K], x_t, t) -> what the network was trained to say.
HeadFn = Callable[[Array, X, Time], Any]


def typed(head: Callable[[Array], Head]) -> HeadFn:
  """The HeadFn of a head that is the raw output as it is."""
  return lambda raw, x, t: head(raw)


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


class Condition(NamedTuple):
  """What a network sees beside x and t. Each may be absent.

  segments: [B, L] document numbers; tokens see only their own document, and
    0 is padding that nobody sees.
  positions: [B, L] places for the rotary embedding; arange(L) if absent.
  mask: [L, L] or [B, L, L], True where the query (row) may see the key.
  dropout_key: turns dropout on.
  source, source_segments: [B, S] of what an encoder reads, 0 is padding.
  memory: [B, S, d_model] what the encoder made of it; `bind` fills it in, so
    that a source is read once however often the network is called.
  """

  segments: Array | None = None
  positions: Array | None = None
  mask: Array | None = None
  dropout_key: Key | None = None
  source: Array | None = None
  source_segments: Array | None = None
  memory: Array | None = None


class Batch(NamedTuple):
  """Rows of a global batch, as an objective sees them.

  ids: [B, L] clean tokens.
  segments: [B, L] as in `Condition`; losses at 0 are not counted.
  positions: [B, L] as in `Condition`.
  rows: [B] index of the row in the global batch; keys are folded with it.
  u: [B] numbers in (0, 1), stratified over the global batch: a training time
    is a function of u, so a change of layout or accumulation moves nothing.
  step: [B] the training step, the same in every row (so that a batch splits
    as one), for losses that change while training; None outside training.
  is_given: [B, L] tokens that are never noise, such as a source before its
    target; None where there are none.
  source, source_segments: [B, S] as in `Condition`, None without an encoder.
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

  @classmethod
  def of(
    cls, rows: Mapping[str, Array], u: Array, step: Array | None = None
  ) -> 'Batch':
    """From the arrays of a data pipeline."""
    names = set(cls._fields) & set(rows)
    return cls(**{name: rows[name] for name in names}, u=u, step=step)

  @property
  def is_counted(self) -> Array:
    """[B, L] whose losses are counted: no padding and nothing given."""
    return is_counted(self.segments, self.is_given)

  @property
  def prompt(self) -> Array:
    """[B] given tokens that rows begin with."""
    if self.is_given is None:
      return jnp.zeros(len(self.ids), jnp.int32)
    return leading(self.is_given)

  def block(self, start: Array, size: int) -> 'Batch':
    """Only `size` tokens of a row, from `start` [B] on, are to be made: those
    before are given, and nobody sees those after."""
    since = jnp.arange(self.ids.shape[1]) - start[:, None]
    given = since < 0 if self.is_given is None else self.is_given | (since < 0)
    segments = jnp.where(since < size, self.segments, 0)
    return self._replace(segments=segments, is_given=given)

  def condition(self, dropout_key: Key | None = None) -> Condition:
    """What the network sees of it beside x and t."""
    return Condition(
      self.segments,
      self.positions,
      None,
      dropout_key,
      self.source,
      self.source_segments,
    )


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


class Denoiser(NamedTuple):
  """All that is seen of a network outside `nn`.

  init: key -> params.
  apply: (params, x, t, condition) -> raw output [B, L, num_outputs], float32.
    x is [B, L] ids, or tokens whose embeddings are mixed: [B, L, K] weights
    of all or a `Mixture` of a few; or, of latent methods, features [B, L, D];
    t broadcasts against [B, L]; ignored unless `uses_time`.
  init_cache: (rows, length) -> cache, causal networks only.
  decode: (params, ids [B, n], cache, start, condition) -> (raw [B, n, K],
    cache): the output at positions start .. start + n - 1 of all rows. Of the
    condition only what an encoder made is looked at.
  uses_time: whether the output depends on t.
  num_states: K.
  tells_each: whether it is told the time of each token, and not a row's.
  table: params -> [K, D] token embeddings.
  method_params: params -> those that the method learns beside the network.
  embed: (params, ids [B, L]) -> features [B, L, D], latent methods only.
  round: (params, features [B, L, D]) -> token logits [B, L, K], likewise.
  expect: (params, logits [B, L, K]) -> mean features [B, L, D], likewise.
  encode: (params, condition) -> what the encoder makes of its source,
    [B, S, d_model]; networks with an encoder only.
  each: (params, x, t, condition, said, rows) -> said(raw, rows) a few tokens at
    a time, so that no raw output [B, L, K] stands whole; None does not.
  """

  init: Callable[[Key], PyTree]
  apply: Callable[[PyTree, X, Time, Condition], Array]
  init_cache: Callable[[int, int], PyTree] | None
  decode: (
    Callable[[PyTree, Array, PyTree, Array, Condition], tuple[Array, PyTree]]
    | None
  )
  uses_time: bool
  num_states: int
  table: Callable[[PyTree], Array] | None = None
  method_params: Callable[[PyTree], PyTree] = lambda params: ()
  embed: Callable[[PyTree, Array], Array] | None = None
  round: Callable[[PyTree, Array], Array] | None = None
  encode: Callable[[PyTree, Condition], Array] | None = None
  expect: Callable[[PyTree, Array], Array] | None = None
  tells_each: bool = False
  each: Callable[..., PyTree] | None = None


class Embedder(Protocol):
  """Token embeddings of a network, with its parameters.

  Attributes:
    table: [K, D]; None where embeddings are no table.
    is_input: True where the network takes these features, False where it takes
      ids.
  """

  @property
  def table(self) -> Array | None: ...
  @property
  def is_input(self) -> bool: ...
  def embed(self, ids: Array) -> Array:
    """ids [L] -> features [L, D]."""
    ...

  def logits(self, features: Array) -> Array:
    """Features [L, D] -> token logits [L, K]."""
    ...

  def expected(self, logits: Array) -> Array:
    """Token logits [L, K] -> their mean features [L, D]."""
    ...


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


DenoiseFn = Callable[[X, Time], Head]


class Model(NamedTuple):
  """A network closed over its parameters and condition.

  denoise: (x_t, t) -> head.
  init_cache, decode: as in `Denoiser`, params closed over, decode giving a
    head; None where the network is not causal.
  uses_time: whether `denoise` depends on t.
  table: [K, D] token embeddings, for kernels that are built from them.
  method_params: what the method learns beside the network.
  method_state: what the method remembers between training steps; () outside
    training.
  embed: ids [L] -> features [L, D], latent methods.
  round: features [L, D] -> token logits [L, K], latent methods.
  expect: token logits [L, K] -> their mean features [L, D], latent methods.
  within: segments [B, L] -> the network as it was bound, where tokens see only
    their own.
  each: see `binding.each_token`.
  """

  denoise: DenoiseFn
  init_cache: Callable[[int, int], PyTree] | None = None
  decode: Callable[[Array, PyTree, Array], tuple[Head, PyTree]] | None = None
  uses_time: bool = False
  table: Array | None = None
  method_params: PyTree = ()
  method_state: PyTree = ()
  embed: Callable[[Array], Array] | None = None
  round: Callable[[Array], Array] | None = None
  expect: Callable[[Array], Array] | None = None
  within: Callable[[Array], 'Model'] | None = None
  each: Callable[..., PyTree] | None = None


class Objective(Protocol):
  """A loss. `estimand` says whether its mean bounds -log p(x0)."""

  @property
  def estimand(self) -> Literal['nelbo', 'surrogate']: ...

  def __call__(
    self, model: Model, key: Key, batch: Batch
  ) -> tuple[Array, dict[str, Array]]:
    """-> [B, L] nats per token, and its terms, each [B, L]."""
    ...


Transition = Callable[[Any, X, Time, Time], Dist]  # (head, x_t, s, t)
Step = Callable[[Key, C, Time, Time], C]
