"""The bound on -log p of texts that a user gives, each by itself."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from textdiffusion.api.restore import Restored
from textdiffusion.api.results import Scores
from textdiffusion.core.types import UserError, is_counted
from textdiffusion.data.coverage import warn_unknown
from textdiffusion.data.packing import PairRows, Rows, Tokens
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.evals.likelihood import estimate, token_nats
from textdiffusion.evals.statistics import monte_carlo_error
from textdiffusion.training.mesh import put_whole, replicated

Row = dict[str, np.ndarray]


def score(
  made: Restored,
  texts: Sequence[str],
  sources: Sequence[str] | None = None,
  draws: int | None = None,
  seed: int = 0,
) -> Scores:
  """See `TextModel.score`. A text that is longer than a row of a packed model
  continues in rows of its own, each of which is scored by itself."""
  _check(made.config.data, texts, sources)
  settings = dataclasses.replace(
    made.config.evaluate,
    seed=seed,
    draws=made.config.evaluate.draws if draws is None else draws,
  )
  tokenizer, mesh = made.tokenizer, made.mesh
  warn_unknown(tokenizer, texts, 'the texts')
  rows = list(_rows(made.config.data, tokenizer, texts, sources))
  totals = jax.jit(
    token_nats(made.method, made.network, settings),
    out_shardings=replicated(mesh),
  )
  pad_id = tokenizer.vocab.pad_id
  nats: Any = 0.0
  tokens, num_bytes = (np.zeros(len(texts), np.int64) for _ in range(2))
  for start in range(0, len(rows), settings.batch_size):
    part = rows[start : start + settings.batch_size]
    owners = np.asarray([owner for owner, _ in part])
    batch = _stacked([row for _, row in part], start, settings.batch_size)
    with jax.set_mesh(mesh):
      value, _ = jax.device_get(totals(made.trained, put_whole(mesh, batch)))
    counted = is_counted(batch['segments'], batch.get('is_given'))
    is_token = counted & (batch['ids'] != (-1 if pad_id is None else pad_id))
    lengths = np.where(counted, tokenizer.byte_lengths[batch['ids']], 0)
    by_text = np.zeros((len(value), len(texts)))
    for place, owner in enumerate(owners):
      by_text[:, owner] += value[:, place].sum(-1, dtype=np.float64)
      tokens[owner] += int(is_token[place].sum())
      num_bytes[owner] += int(lengths[place].sum())
    nats = nats + by_text
  is_exact = made.method.process is None
  errors = [
    0.0 if is_exact else monte_carlo_error(nats[:, i : i + 1])
    for i in range(len(texts))
  ]
  how = estimate(made.method, settings)
  return Scores(
    list(texts), nats.mean(0), np.asarray(errors), tokens, num_bytes, how
  )


def _check(
  config: DataConfig, texts: Sequence[str], sources: Sequence[str] | None
) -> None:
  """Raises UserError where texts and sources do not fit the model."""
  if not texts:
    raise UserError('there is no text to score')
  has_sources = config.rows in ('joined', 'separate')
  if has_sources and sources is None:
    raise UserError(
      'the model answers sources: give the source of each text, sources=[...]'
    )
  if not has_sources and sources is not None:
    raise UserError(
      f'the model was trained on data.rows={config.rows}, texts without '
      'sources: leave sources out'
    )
  if sources is not None and len(sources) != len(texts):
    raise UserError(
      f'{len(texts)} texts and {len(sources)} sources: give one for each'
    )


def _rows(
  config: DataConfig,
  tokenizer: Tokenizer,
  texts: Sequence[str],
  sources: Sequence[str] | None,
) -> Iterator[tuple[int, Row]]:
  """Yields (index of the text, a row as in training)."""
  pad = tokenizer.vocab.pad_id
  pad_id = 0 if pad is None else pad
  if sources is not None:
    assert config.rows == 'joined' or config.rows == 'separate'
    pairs = PairRows(
      _tokens(tokenizer, sources),
      _tokens(tokenizer, texts),
      config.length,
      config.source_length,
      config.rows,
      'refuse',
      config.model_padding,
      pad_id,
    )
    yield from ((i, pairs[i]) for i in range(len(texts)))
    return
  assert config.rows == 'packed' or config.rows == 'document'
  for i, text in enumerate(texts):
    rows = Rows(
      _tokens(tokenizer, [text]),
      config.length,
      config.rows,
      config.respect_documents,
      config.model_padding,
      pad_id,
      keep_tail=True,
    )
    yield from ((i, rows[place]) for place in range(len(rows)))


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> Tokens:
  """Tokens of texts, each with its end."""
  eos = tokenizer.vocab.eos_id
  tail = np.asarray([] if eos is None else [eos], np.int32)
  each = [np.concatenate([tokenizer.encode(text), tail]) for text in texts]
  ids = np.concatenate(each).astype(np.int32)
  ends = np.cumsum([len(part) for part in each])
  return Tokens(ids, ends, sum(len(text.encode()) for text in texts))


def _stacked(rows: list[Row], start: int, size: int) -> Row:
  """A batch of `size`, filled up with rows of padding."""
  blank = {name: np.zeros_like(value) for name, value in rows[0].items()}
  full = rows + [blank] * (size - len(rows))
  batch = {name: np.stack([row[name] for row in full]) for name in rows[0]}
  batch['rows'] = np.arange(start, start + size, dtype=np.int32)
  return batch
