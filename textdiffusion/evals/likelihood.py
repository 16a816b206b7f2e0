"""Held-out likelihood: the evaluator's mean with its errors and its protocol.

Losses are added up by document, since rows that hold parts of one document are
not independent. Only an objective that bounds -log p (`estimand == 'nelbo'`) is
reported as bits or perplexity; autoregression is the case where the bound is
exact.
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
  """How much is evaluated.

  Attributes:
    rows: held-out rows at most, chosen by the seed; 0 for all of them.
    draws: draws of t for each row.
    batch_size: rows per call of the network.
    seed: of the rows and the draws. None takes `train.seed`, so that runs with
      other seeds are evaluated on other rows and draws, and methods at equal
      seeds on the same ones.
  """

  rows: int = 0
  draws: int = 8
  batch_size: int = 16
  seed: int | None = None

  def __post_init__(self) -> None:
    for name, least in (('rows', 0), ('draws', 1), ('batch_size', 1)):
      if getattr(self, name) < least:
        raise UserError(
          f'evaluate.{name}={getattr(self, name)}: must be at least {least}'
        )
    if self.seed is not None:
      check_seed('evaluate.seed', self.seed)

  def with_seed(self, train_seed: int) -> 'EvaluateConfig':
    """This config with the seed of a run where it has none of its own."""
    if self.seed is not None:
      return self
    return dataclasses.replace(self, seed=train_seed)

  def chosen(self, count: int) -> np.ndarray:
    """Indices of the rows, of `count` held out, that are evaluated."""
    return eval_rows(count, self.rows, self.seed)

  def batches(
    self, heldout: Rows | PairRows
  ) -> Iterator[dict[str, np.ndarray]]:
    """Batches of these rows."""
    return eval_batches(heldout, self.batch_size, self.rows, self.seed)


# (trained, batch) -> nats [draws, B, L], terms [draws, B]
TokenNats = Callable[
  [Trained, dict[str, Array]], tuple[Array, dict[str, Array]]
]


def token_nats(
  method: Method, network: Network, config: EvaluateConfig
) -> TokenNats:
  """Builds (trained, batch) -> ([draws, B, L] nats, terms).

  Nats are of each token, 0 where a token is not counted; terms are [draws, B],
  added up over a row. The times of a row's draws are stratified: draw d takes u
  from [d / draws, (d + 1) / draws). An exact likelihood takes one draw. Jit it
  at the caller.
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

    def of(
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
      return of(key, bound, whole)

    # -log p of a row is the sum of those of its blocks given what is before.
    def of_block(number: Array) -> tuple[Array, dict[str, Array]]:
      part = whole.block(whole.prompt + number * block, block)
      model = bound.with_view(segments=part.segments)
      return of(jax.random.fold_in(key, number), model, part)

    count = -(-whole.ids.shape[1] // block)
    parts = jax.lax.map(of_block, jnp.arange(count))
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
  """Bits per byte and per token, perplexity, terms, errors, protocol.

  Args:
    method: the wiring.
    network: the network that is evaluated.
    trained: its parameters and the state of the method.
    batches: dicts of ids, segments, positions [B, L] and rows [B]; with
      documents [B, L], see `data.pipeline.eval_batches`, or each row counts as
      a document.
    byte_lengths: [vocab] UTF-8 bytes of each token; specials count 0.
    config: draws and seed.
    protocol: tokenizer, data, split and row layout, in words.
    put: places a batch on the devices.
    totals: a jitted `token_nats` to use again; built here if absent.
    pad_id: modelled padding adds its nats, and is no token to divide by.

  Returns:
    A dict that JSON takes. `*_se` is the standard error over documents; it
    holds the error of the draws too, which `bits_per_byte_monte_carlo_se` and
    `monte_carlo_se` (nats per token) give by itself. What one document or one
    draw does not determine is None.
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
  """An evaluation added up by document.

  Attributes:
    documents: [D] their numbers, growing.
    nats: [D] bound on -log p, the mean over draws.
    tokens: [D] tokens evaluated.
    num_bytes: [D] UTF-8 bytes of these tokens.
    terms: parts of the bound, nats over all rows.
    monte_carlo_se: of the sum of `nats`, due to the draws; NaN for one draw.
    rows: rows evaluated.
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
  """What `evaluate` reports, before division; its arguments are the same.

  A token's loss belongs to the document of the token: a row of several
  documents adds to each of them, a document of several rows is one entry.
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
    # A batch is added up at once: its tokens may be too many to keep.
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
  """The report of `evaluate`."""
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
  """How the expectation over corruptions is taken, in words."""
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
  """Without a forward process nothing is random."""
  return 1 if method.process is None else config.draws
