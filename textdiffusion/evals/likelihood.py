"""Held-out likelihood: the evaluator's mean with its error and its protocol.

Only an objective that bounds -log p (`estimand == 'nelbo'`) is reported as
bits or perplexity; autoregression is the case where the bound is exact.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.binding import anchored, bind
from textdiffusion.core.keys import check_seed, row_keys, stream
from textdiffusion.core.types import (
  Array,
  Batch,
  Denoiser,
  Key,
  Model,
  PyTree,
  UserError,
  is_counted,
)
from textdiffusion.methods.method import Method


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
  """rows: held-out rows at most, 0 for all of them. draws: of t, per row.

  batch_size: rows per call of the network.
  """

  rows: int = 0
  draws: int = 8
  batch_size: int = 16
  seed: int = 0

  def __post_init__(self) -> None:
    for name, least in (('rows', 0), ('draws', 1), ('batch_size', 1)):
      if getattr(self, name) < least:
        raise UserError(
          f'evaluate.{name}={getattr(self, name)}: must be at least {least}'
        )
    check_seed('evaluate.seed', self.seed)


# (params, batch, what the method remembers)
RowTotals = Callable[
  [PyTree, dict[str, Array], PyTree], tuple[Array, dict[str, Array]]
]


def row_totals(
  method: Method, denoiser: Denoiser, config: EvaluateConfig
) -> RowTotals:
  """(params, batch, what the method remembers, if anything) -> [draws, B] nats
  a row, and its terms likewise.

  The times of a row's draws are stratified: draw d takes u from
  [d / draws, (d + 1) / draws). An exact likelihood takes one. Jit it at the
  caller.
  """
  draws = _draws(method, config)
  key = stream(jax.random.key(config.seed), 'evaluate')
  if method.evaluator.estimand != 'nelbo':
    raise UserError('this evaluator bounds no likelihood: nothing to report')

  def totals(
    params: PyTree, batch: dict[str, Array], method_state: PyTree = ()
  ) -> tuple[Array, dict[str, Array]]:
    whole = Batch.of(batch, jnp.zeros(len(batch['rows'])))

    condition = whole.condition()
    bound = bind(denoiser, params, method.head, condition, method_state)

    def of(
      key: Key, model: Model, rows: Batch
    ) -> tuple[Array, dict[str, Array]]:
      model = anchored(model, rows)

      def one(draw: Array) -> tuple[Array, dict[str, Array]]:
        key_u, key_x = jax.random.split(jax.random.fold_in(key, draw))
        jitter = jax.vmap(lambda k: jax.random.uniform(k, minval=2.0**-24))(
          row_keys(key_u, batch['rows'])
        )
        seen = rows._replace(u=(draw + jitter) / draws)
        nats, terms = method.evaluator(model, key_x, seen)
        add = lambda x: jnp.where(rows.is_counted, x, 0.0).sum(-1)
        return add(nats), jax.tree.map(add, terms)

      return jax.lax.map(one, jnp.arange(draws))

    if not method.block:
      return of(key, bound, whole)

    # -log p of a row is the sum of those of its blocks given what is before.
    def of_block(number: Array) -> tuple[Array, dict[str, Array]]:
      part = whole.block(whole.prompt + number * method.block, method.block)
      assert bound.within is not None
      model = bound.within(part.segments)
      return of(jax.random.fold_in(key, number), model, part)

    count = -(-whole.ids.shape[1] // method.block)
    parts = jax.lax.map(of_block, jnp.arange(count))
    return jax.tree.map(lambda x: x.sum(0), parts)

  return totals


def evaluate(
  method: Method,
  denoiser: Denoiser,
  params: PyTree,
  batches: Iterable[dict[str, np.ndarray]],
  byte_lengths: np.ndarray,
  config: EvaluateConfig,
  protocol: str,
  put: Callable[[dict[str, np.ndarray]], dict[str, Array]] = jax.device_put,
  totals: RowTotals | None = None,
  pad_id: int | None = None,
  method_state: PyTree = (),
) -> dict[str, Any]:
  """Bits per byte and per token, perplexity, terms, errors, protocol.

  Args:
    method, denoiser, params: what is evaluated.
    batches: dicts of ids, segments, positions [B, L] and rows [B].
    byte_lengths: [vocab] UTF-8 bytes of each token; specials count 0.
    config: draws and seed.
    protocol: tokenizer, data, split and row layout, in words.
    put: places a batch on the devices.
    totals: a jitted `row_totals` to use again; made here if absent.
    pad_id: modelled padding adds its nats, and is no token to divide by.
    method_state: what the method remembers of its training.

  Returns:
    A dict that JSON takes. `*_se` is the standard error over rows (it contains
    the Monte-Carlo error); `monte_carlo_se` is the part due to the draws. What
    one row or one draw cannot tell is None.
  """
  totals = totals or jax.jit(row_totals(method, denoiser, config))
  nats, terms, tokens, num_bytes = [], [], [], []
  for batch in batches:
    value, named = jax.device_get(totals(params, put(batch), method_state))
    counted = is_counted(batch['segments'], batch.get('is_given'))
    some = counted.any(-1)
    nats.append(value[:, some])
    terms.append({name: term[:, some] for name, term in named.items()})
    is_token = counted & (batch['ids'] != (-1 if pad_id is None else pad_id))
    tokens.append(is_token.sum(-1)[some])
    lengths = np.where(counted, byte_lengths[batch['ids']], 0)
    num_bytes.append(lengths.sum(-1)[some])
  if not nats or not sum(map(len, tokens)):
    raise UserError('no held-out row to evaluate: raise data.holdout')
  value = np.concatenate(nats, 1).astype(np.float64)
  tokens = np.concatenate(tokens).astype(np.float64)
  num_bytes = np.concatenate(num_bytes).astype(np.float64)
  per_token, per_token_se = _ratio(value.mean(0), tokens)
  per_byte, per_byte_se = _ratio(value.mean(0), num_bytes)
  by_term = {
    name: float(np.concatenate([t[name] for t in terms], 1).mean(0).sum())
    / tokens.sum()
    for name in terms[0]
  }
  bits = 1 / math.log(2)
  told = {
    'bits_per_byte': per_byte * bits,
    'bits_per_byte_se': per_byte_se * bits,
    'bits_per_token': per_token * bits,
    'bits_per_token_se': per_token_se * bits,
    'nats_per_token': per_token,
    'nats_per_token_se': per_token_se,
    'perplexity': math.exp(min(per_token, 700.0)),
    'perplexity_se': math.exp(min(per_token, 700.0)) * per_token_se,
    'monte_carlo_se': float(_monte_carlo(method, value) / tokens.sum()),
    'terms': by_term,
    'rows': len(tokens),
    'tokens': int(tokens.sum()),
    'bytes': int(num_bytes.sum()),
    'draws': len(value),
    'protocol': f'{protocol}; {estimate(method, config)}',
  }
  return {
    name: None if value != value else value for name, value in told.items()
  }


def estimate(method: Method, config: EvaluateConfig) -> str:
  """How the expectation over corruptions is taken, in words."""
  if method.process is None:
    return 'exact likelihood'
  if getattr(method.evaluator, 'all_steps', False):
    return f'{config.draws} draws of every step a row; seed {config.seed}'
  part = f'block of {method.block} tokens' if method.block else 'row'
  return (
    f'{config.draws} draws of t a {part}, stratified in (0, 1); seed '
    f'{config.seed}'
  )


def _draws(method: Method, config: EvaluateConfig) -> int:
  """Without a forward process nothing is random."""
  return 1 if method.process is None else config.draws


def _ratio(totals: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
  """sum(totals) / sum(counts) and its standard error by linearisation."""
  if not counts.sum():
    return math.nan, math.nan
  ratio = totals.sum() / counts.sum()
  if len(totals) < 2:
    return float(ratio), math.nan
  spread = (totals - ratio * counts).var(ddof=1)
  return float(ratio), math.sqrt(len(totals) * spread) / float(counts.sum())


def _monte_carlo(method: Method, value: np.ndarray) -> float:
  """Standard error of the sum over rows due to the draws, [draws, N] nats.

  Draws are stratified, which only lowers it: an upper estimate.
  """
  if len(value) < 2:
    return 0.0 if method.process is None else math.nan
  return math.sqrt((value.var(0, ddof=1) / len(value)).sum())
