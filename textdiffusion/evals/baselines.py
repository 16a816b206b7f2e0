"""Baselines without a network, to compare a trained model with.

`token_baselines` uses the same tokens, training split and rows as the model.
`byte_bigram` models the bytes of whole documents.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from textdiffusion.core.types import is_counted
from textdiffusion.data.packing import PairRows, Rows
from textdiffusion.data.pipeline import Data
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.evals.statistics import cluster_ratio, cluster_sums

_END = 256  # Symbol of the end of a document.
# Limits on the rows and tokens of the training split that are counted, spread
# evenly over it. They keep counting to a few seconds and half a GiB of memory.
# The report states how many rows were counted.
MAX_ROWS, MAX_TOKENS = 1 << 18, 1 << 24
_SLICE = 10  # One in this many parts of the rows is used to fit the smoothing.
_STRENGTHS = 2.0 ** np.arange(-4, 17)


class Pairs(NamedTuple):
  """Pairs of a token and the token before it.

  Attributes:
    before: the previous token of the row, or `vocab_size` at its start.
    tokens: the tokens.
  """

  before: Int[np.ndarray, ' N']
  tokens: Int[np.ndarray, ' N']


def row_pairs(batch: Mapping[str, np.ndarray], vocab_size: int) -> Pairs:
  """Pairs every counted token of the rows [B, L] with the token before it.

  Given tokens, such as those of a source, serve as contexts only.
  """
  ids = batch['ids']
  before = np.full_like(ids, vocab_size)
  before[..., 1:] = ids[..., :-1]
  counted = is_counted(batch['segments'], batch.get('is_given'))
  return Pairs(before[counted], ids[counted])


class Bigram:
  """Smoothed unigram and bigram models of tokens.

  p(b) = (count(b) + k / V) / (N + k) and
  p(b | a) = (count(a, b) + m p(b)) / (count(a) + m), an interpolation in which
  the weight of p(b) falls with the count of the context (MacKay & Peto 1995). k
  and m are the `_STRENGTHS` with the highest likelihood on a tenth of the
  training rows, given the counts of the other rows. Then all rows are counted.

  Args:
    rows: pairs of tokens, one `Pairs` per batch of training rows.
    vocab_size: size of the vocabulary, V.

  Attributes:
    vocab_size: size of the vocabulary, V.
    unigram_strength: pseudo-count k of the unigram.
    bigram_strength: pseudo-count m of the bigram.
  """

  def __init__(self, rows: Iterable[Pairs], vocab_size: int):
    self.vocab_size = vocab_size
    parts = list(rows)
    held = [part for i, part in enumerate(parts) if i % _SLICE == _SLICE - 1]
    rest = [part for i, part in enumerate(parts) if i % _SLICE != _SLICE - 1]
    self.unigram_strength = self.bigram_strength = 1.0
    if held:
      self._count(rest)
      slice_ = _joined(held)

      def best(name: str, score: Callable[[Pairs], np.ndarray]) -> None:
        losses = []
        for strength in _STRENGTHS:
          setattr(self, name, strength)
          losses.append(score(slice_).sum())
        setattr(self, name, float(_STRENGTHS[int(np.argmin(losses))]))

      best('unigram_strength', self.unigram_nats)
      best('bigram_strength', self.bigram_nats)
    self._count(parts)

  def _count(self, parts: list[Pairs]) -> None:
    whole, size = _joined(parts), self.vocab_size
    self._tokens = np.bincount(whole.tokens, minlength=size)
    self._contexts = np.bincount(whole.before, minlength=size + 1)
    self._pairs, self._pair_counts = np.unique(
      self._key(whole), return_counts=True
    )

  def _key(self, pairs: Pairs) -> np.ndarray:
    return pairs.before.astype(np.int64) * self.vocab_size + pairs.tokens

  def unigram_nats(self, pairs: Pairs) -> Float[np.ndarray, ' N']:
    """Returns -log p(token)."""
    k, size = self.unigram_strength, self.vocab_size
    counts = self._tokens[pairs.tokens]
    return np.log(self._tokens.sum() + k) - np.log(counts + k / size)

  def bigram_nats(self, pairs: Pairs) -> Float[np.ndarray, ' N']:
    """Returns -log p(token | token before it)."""
    m, key = self.bigram_strength, self._key(pairs)
    places = np.searchsorted(self._pairs, key)
    places = np.minimum(places, len(self._pairs) - 1)
    is_known = self._pairs[places] == key
    counts = np.where(is_known, self._pair_counts[places], 0)
    back_off = m * np.exp(-self.unigram_nats(pairs))
    return np.log(self._contexts[pairs.before] + m) - np.log(counts + back_off)


def token_baselines(
  train: Rows | PairRows,
  batches: Iterable[dict[str, np.ndarray]],
  tokenizer: Tokenizer,
) -> dict[str, Any]:
  """Fits a unigram and a bigram of tokens, and evaluates them.

  They score the same tokens as the model, with ends of documents and modelled
  padding. The nats of padding are added, but padding does not count as tokens.
  The first token of a row is predicted from a start symbol.

  Args:
    train: rows of the training split.
    batches: batches of `data.pipeline.eval_batches`, equal to the model's.
    tokenizer: the tokenizer of the model.

  Returns:
    A JSON dict: 'unigram' and 'bigram', each with bits_per_byte, nats_per_token
    and their standard errors over documents, and 'fitted_on', a description.
    It is empty if there are no training rows.
  """
  if not len(train):
    return {}
  chosen, vocab_size = _spread(train), tokenizer.vocab.size
  pad_id = tokenizer.vocab.pad_id
  model = Bigram(training_pairs(train, chosen, vocab_size), vocab_size)
  labels: list[np.ndarray] = []
  columns: list[np.ndarray] = []
  for batch in batches:
    pairs = row_pairs(batch, vocab_size)
    counted = is_counted(batch['segments'], batch.get('is_given'))
    inside = batch['documents'][counted]
    is_token = pairs.tokens != (-1 if pad_id is None else pad_id)
    values = np.stack(
      [
        model.unigram_nats(pairs),
        model.bigram_nats(pairs),
        is_token,
        tokenizer.byte_lengths[pairs.tokens],
      ]
    )
    labels.append(np.unique(inside))
    columns.append(cluster_sums(inside, values))
  sums = cluster_sums(np.concatenate(labels), np.concatenate(columns, 1))
  return {
    'unigram': _figures(sums[0], sums[2], sums[3]),
    'bigram': _figures(sums[1], sums[2], sums[3]),
    'fitted_on': (
      f'{len(chosen):,} of {len(train):,} training rows; bigram interpolated '
      f'with the unigram, {model.bigram_strength:g} pseudo-counts fitted on a '
      'tenth of these rows'
    ),
  }


def reference_bits(tokens: dict[str, Any], data: Data) -> dict[str, float]:
  """Returns bits per byte of all baselines, by name, to plot next to a bound.

  Args:
    tokens: the report of `token_baselines`.
    data: the data; the byte bigram is fitted and scored on all its documents.
  """
  named = {
    f'token {name}': tokens[name]['bits_per_byte']
    for name in ('unigram', 'bigram')
  }
  by_byte = byte_bigram(data.texts('train'), data.texts('heldout'))
  return {**named, 'byte bigram': by_byte}


def training_pairs(
  train: Rows | PairRows, chosen: np.ndarray, vocab_size: int
) -> Iterator[Pairs]:
  """Yields pairs of the chosen rows in small parts.

  A part has about 1,024 tokens, or a hundredth of the rows if that is less.

  Args:
    train: rows of the training split.
    chosen: indices of the rows.
    vocab_size: size of the vocabulary.
  """
  size = max(1, min(1024 // train.length, len(chosen) // 100))
  for start in range(0, len(chosen), size):
    rows = [train[i] for i in chosen[start : start + size]]
    names = [
      name for name in ('ids', 'segments', 'is_given') if name in rows[0]
    ]
    batch = {name: np.stack([row[name] for row in rows]) for name in names}
    yield row_pairs(batch, vocab_size)


def _spread(train: Rows | PairRows) -> np.ndarray:
  """Returns indices of evenly spread rows, within the limits of counting."""
  count = min(len(train), MAX_ROWS, max(1, MAX_TOKENS // train.length))
  return np.arange(count) * len(train) // count


def _joined(parts: list[Pairs]) -> Pairs:
  return Pairs(*(np.concatenate(column) for column in zip(*parts)))


def _figures(
  nats: np.ndarray, tokens: np.ndarray, num_bytes: np.ndarray
) -> dict[str, float | None]:
  """Returns figures per token and per byte from sums over documents."""
  per_token, per_byte = (cluster_ratio(nats, n) for n in (tokens, num_bytes))
  bits = 1 / math.log(2)
  figures = {
    'bits_per_byte': per_byte.value * bits,
    'bits_per_byte_se': per_byte.se * bits,
    'nats_per_token': per_token.value,
    'nats_per_token_se': per_token.se,
  }
  return {k: None if math.isnan(v) else v for k, v in figures.items()}


def byte_bigram(
  train: Iterable[str], heldout: Iterable[str], pseudo_count: float = 0.1
) -> float:
  """Returns bits per held-out byte of a bigram model over bytes.

  Each document ends with an end symbol. Its bits count but it is not counted as
  a byte, just as a language model's end-of-document token.

  Args:
    train: documents to fit the model on.
    heldout: documents to score.
    pseudo_count: number that is added to each of the 257 x 257 counts.
  """
  counts = np.full((257, 257), pseudo_count)
  for text in train:
    ids = _with_ends(text)
    counts += np.bincount(
      ids[:-1] * 257 + ids[1:], minlength=257 * 257
    ).reshape(257, 257)
  bits = -np.log(counts / counts.sum(1, keepdims=True)) / math.log(2)
  total, num_bytes = 0.0, 0
  for text in heldout:
    ids = _with_ends(text)
    total += bits[ids[:-1], ids[1:]].sum()
    num_bytes += len(ids) - 2
  return float(total / num_bytes)


def _with_ends(text: str) -> np.ndarray:
  """Returns the UTF-8 bytes of a text between two end symbols."""
  body = np.frombuffer(text.encode('utf-8', 'replace'), np.uint8)
  return np.concatenate([[_END], body.astype(np.int64), [_END]])
