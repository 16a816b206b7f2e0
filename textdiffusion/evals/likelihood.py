"""Held-out likelihood with standard errors and a description of the protocol.

Losses are summed by document, because rows that hold parts of the same document
are not independent. Only an objective that bounds -log p
(`estimand == 'nelbo'`) is reported as bits or perplexity. For autoregressive
models the bound is exact.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.keys import check_seed, row_keys, stream
from textdiffusion.core.types import (
  Array,
  Batch,
  Key,
  UserError,
  is_counted,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.data.packing import PairRows, Rows
from textdiffusion.data.pipeline import eval_batches, eval_rows
from textdiffusion.evals.statistics import (
  cluster_ratio,
  cluster_sums,
  monte_carlo_error,
)
from textdiffusion.methods.method import Method
from textdiffusion.model import Model, Trained, anchored, batch_view, bind
from textdiffusion.nn.network import Network
from textdiffusion.objectives.base import Models


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """Settings of the evaluation.

  Attributes:
    rows: largest number of held-out rows, chosen by the seed; 0 uses all.
    draws: draws of t for each row.
    batch_size: rows per call of the network.
    seed: seed of the choice of rows and of the draws. None uses `train.seed`:
      then runs with different seeds are evaluated on different rows and draws,
      and methods with equal seeds on the same ones.
  """

  config_group = 'evaluate'

  rows: int = 0
  draws: int = 8
  batch_size: int = 16
  seed: int | None = None

  def __post_init__(self) -> None:
    check_fields(self, rows='[0, inf)', draws='[1, inf)', batch_size='[1, inf)')
    if self.seed is not None:
      check_seed('evaluate.seed', self.seed)

  def with_seed(self, train_seed: int) -> 'EvaluateConfig':
    """Returns this config with the seed of a run, unless it has a seed."""
    if self.seed is not None:
      return self
    return dataclasses.replace(self, seed=train_seed)

  def chosen(self, count: int) -> np.ndarray:
    """Returns the indices of the evaluated rows among `count` held-out rows."""
    return eval_rows(count, self.rows, self.seed)

  def batches(
    self, heldout: Rows | PairRows
  ) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches of the evaluated rows."""
    return eval_batches(heldout, self.batch_size, self.rows, self.seed)


# (trained, batch) -> nats [draws, B, L], terms [draws, B]
TokenNats = Callable[
  [Trained, dict[str, Array]], tuple[Array, dict[str, Array]]
]


def token_nats(
  method: Method, network: Network, config: EvaluateConfig
) -> TokenNats:
  """Builds the function (trained, batch) -> (nats, terms); callers jit it.

  `nats` [draws, B, L] holds the bound of each token, 0 for tokens that do not
  count. `terms` holds parts of the bound, [draws, B], summed over each row. The
  times of a row are stratified over its draws: draw d takes u from
  [d / draws, (d + 1) / draws). An exact likelihood needs one draw only.

  Args:
    method: the method.
    network: the network.
    config: draws and seed.

  Raises:
    UserError: the evaluator of the method does not bound the likelihood.
  """
  draws = _draws(method, config)
  key = stream(jax.random.key(config.seed or 0), 'evaluate')
  if method.evaluator.estimand != 'nelbo':
    raise UserError('this evaluator bounds no likelihood: nothing to report')

  def totals(
    trained: Trained, batch: dict[str, Array]
  ) -> tuple[Array, dict[str, Array]]:
    whole = Batch.of(batch, jnp.zeros(len(batch['rows'])))
    view = batch_view(network, trained.params, whole)
    bound = bind(method, network, trained, view)

    def all_draws(
      key: Key, model: Model, rows: Batch
    ) -> tuple[Array, dict[str, Array]]:
      model = anchored(model, rows)

      def one(draw: Array) -> tuple[Array, dict[str, Array]]:
        key_u, key_x = jax.random.split(jax.random.fold_in(key, draw))
        jitter = jax.vmap(lambda k: jax.random.uniform(k, minval=2.0**-24))(
          row_keys(key_u, batch['rows'])
        )
        drawn = rows._replace(u=(draw + jitter) / draws)
        nats, terms = method.evaluator(Models(model), key_x, drawn)
        counted = lambda x: jnp.where(rows.is_counted, x, 0.0)
        return counted(nats), jax.tree.map(lambda x: counted(x).sum(-1), terms)

      return jax.lax.map(one, jnp.arange(draws))

    block = method.needs.block
    if not block:
      return all_draws(key, bound, whole)

    # -log p of a row is the sum of -log p(block | blocks before it).
    def one_block(number: Array) -> tuple[Array, dict[str, Array]]:
      part = whole.block(whole.prompt + number * block, block)
      model = bound.with_view(segments=part.segments)
      return all_draws(jax.random.fold_in(key, number), model, part)

    count = -(-whole.ids.shape[1] // block)
    parts = jax.lax.map(one_block, jnp.arange(count))
    return jax.tree.map(lambda x: x.sum(0), parts)

  return totals


def evaluate(
  method: Method,
  network: Network,
  trained: Trained,
  batches: Iterable[dict[str, np.ndarray]],
  byte_lengths: np.ndarray,
  config: EvaluateConfig,
  protocol: str,
  put: Callable[[dict[str, np.ndarray]], dict[str, Array]] = jax.device_put,
  totals: TokenNats | None = None,
  pad_id: int | None = None,
) -> dict[str, Any]:
  """Evaluates bits per byte and per token, perplexity and terms, with errors.

  Args:
    method: the method.
    network: the network that is evaluated.
    trained: parameters and method state.
    batches: dicts of ids, segments, positions [B, L] and rows [B]. Without
      documents [B, L] (see `data.pipeline.eval_batches`), each row counts as a
      document.
    byte_lengths: [vocab] UTF-8 bytes of each token, 0 for specials.
    config: draws and seed.
    protocol: description of tokenizer, data, split and row layout.
    put: puts a batch onto the devices.
    totals: a jitted `token_nats` to reuse; built here if None.
    pad_id: id of modelled padding, whose nats are added but which is not
      counted as a token.

  Returns:
    A JSON dict. `*_se` is the standard error over documents, which includes the
    error due to the draws. `bits_per_byte_monte_carlo_se` and `monte_carlo_se`
    (nats per token) are the error due to the draws alone. Errors that one
    document or one draw cannot determine are None.
  """
  sums = document_sums(
    method,
    network,
    trained,
    batches,
    byte_lengths,
    config,
    put,
    totals,
    pad_id,
  )
  return summary(sums, f'{protocol}; {estimate(method, config)}')


class DocumentSums(NamedTuple):
  """The sums of an evaluation by document.

  Attributes:
    documents: [D] document numbers, increasing.
    nats: [D] bound on -log p, averaged over draws.
    tokens: [D] number of evaluated tokens.
    num_bytes: [D] UTF-8 bytes of these tokens.
    terms: parts of the bound in nats, summed over all rows.
    monte_carlo_se: standard error of the sum of `nats` due to the draws; NaN
      for one draw.
    rows: number of evaluated rows.
    draws: draws for each row.
  """

  documents: np.ndarray
  nats: np.ndarray
  tokens: np.ndarray
  num_bytes: np.ndarray
  terms: dict[str, float]
  monte_carlo_se: float
  rows: int
  draws: int


def document_sums(
  method: Method,
  network: Network,
  trained: Trained,
  batches: Iterable[dict[str, np.ndarray]],
  byte_lengths: np.ndarray,
  config: EvaluateConfig,
  put: Callable[[dict[str, np.ndarray]], dict[str, Array]] = jax.device_put,
  totals: TokenNats | None = None,
  pad_id: int | None = None,
) -> DocumentSums:
  """Sums an evaluation by document; the arguments are those of `evaluate`.

  The loss of a token belongs to the token's document. A row with several
  documents adds to each of them, and a document in several rows is one entry.

  Raises:
    UserError: there is no held-out row.
  """
  totals = totals or jax.jit(token_nats(method, network, config))
  by_row, labels, columns, rows, places = [], [], [], 0, 0
  terms: dict[str, list[np.ndarray]] = {}
  for batch in batches:
    arrays = {k: v for k, v in batch.items() if k != 'documents'}
    value, named = jax.device_get(totals(trained, put(arrays)))
    counted = is_counted(batch['segments'], batch.get('is_given'))
    some = counted.any(-1)
    by_row.append(value[:, some].sum(-1, dtype=np.float64))
    for name, term in named.items():
      terms.setdefault(name, []).append(term[:, some])
    documents = batch.get('documents')
    if documents is None:
      each = places + np.arange(len(some))
      documents = np.broadcast_to(each[:, None], counted.shape)
    is_token = counted & (batch['ids'] != (-1 if pad_id is None else pad_id))
    lengths = byte_lengths[batch['ids']]
    values = np.stack([value.mean(0, dtype=np.float64), is_token, lengths])
    # Each batch is reduced at once, as all tokens may not fit into memory.
    inside = documents[counted]
    labels.append(np.unique(inside))
    columns.append(cluster_sums(inside, values[:, counted]))
    rows, places = rows + int(some.sum()), places + len(some)
  if not rows:
    raise UserError('no held-out row to evaluate: raise data.holdout')
  numbers = np.concatenate(labels)
  nats, tokens, num_bytes = cluster_sums(numbers, np.concatenate(columns, 1))
  draws = np.concatenate(by_row, 1)
  is_exact = method.process is None
  return DocumentSums(
    np.unique(numbers),
    nats,
    tokens,
    num_bytes,
    {
      name: float(np.concatenate(parts, 1).mean(0, dtype=np.float64).sum())
      for name, parts in terms.items()
    },
    0.0 if is_exact and len(draws) < 2 else monte_carlo_error(draws),
    rows,
    len(draws),
  )


def summary(sums: DocumentSums, protocol: str) -> dict[str, Any]:
  """Turns sums by document into the report of `evaluate`."""
  tokens, num_bytes = sums.tokens.sum(), sums.num_bytes.sum()
  per_token = cluster_ratio(sums.nats, sums.tokens)
  per_byte = cluster_ratio(sums.nats, sums.num_bytes)
  bits = 1 / math.log(2)
  per_draw = sums.monte_carlo_se / tokens
  report = {
    'bits_per_byte': per_byte.value * bits,
    'bits_per_byte_se': per_byte.se * bits,
    'bits_per_byte_monte_carlo_se': (
      sums.monte_carlo_se / num_bytes * bits if num_bytes else math.nan
    ),
    'bits_per_token': per_token.value * bits,
    'bits_per_token_se': per_token.se * bits,
    'nats_per_token': per_token.value,
    'nats_per_token_se': per_token.se,
    'perplexity': math.exp(min(per_token.value, 700.0)),
    'perplexity_se': math.exp(min(per_token.value, 700.0)) * per_token.se,
    'monte_carlo_se': float(per_draw),
    'terms': {name: nats / tokens for name, nats in sums.terms.items()},
    'documents': len(sums.documents),
    'rows': sums.rows,
    'tokens': int(tokens),
    'bytes': int(num_bytes),
    'draws': sums.draws,
    'protocol': protocol,
  }
  return {
    name: None if value != value else value for name, value in report.items()
  }


def estimate(method: Method, config: EvaluateConfig) -> str:
  """Describes how the expectation over corruptions is estimated."""
  if method.process is None:
    return 'exact likelihood'
  if getattr(method.evaluator, 'all_steps', False):
    return f'{config.draws} draws of every step a row; seed {config.seed or 0}'
  block = method.needs.block
  part = f'block of {block} tokens' if block else 'row'
  return (
    f'{config.draws} draws of t a {part}, stratified in (0, 1); seed '
    f'{config.seed or 0}'
  )


def _draws(method: Method, config: EvaluateConfig) -> int:
  """Returns the number of draws; an exact likelihood needs only one."""
  return 1 if method.process is None else config.draws
