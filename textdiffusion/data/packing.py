"""Rows of a fixed length from documents, cut lazily from one token array."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from textdiffusion.core.types import UserError
from textdiffusion.data.corpora import writing_cache
from textdiffusion.data.coverage import Coverage, measure
from textdiffusion.data.tokenizers import Tokenizer

_VERSION = 2  # of the files in the cache of tokens


class Tokens(NamedTuple):
  """A split, tokenised. ids: [N] of all documents, each with its eos.

  ends: [documents] where each one ends in `ids`. num_bytes: of the texts.
  coverage: of the texts by the ids.
  """

  ids: np.ndarray
  ends: np.ndarray
  num_bytes: int
  coverage: Coverage = Coverage()


def tokenize(
  name: str, tokenizer: Tokenizer, texts: Iterable[str], folder: Path
) -> Tokens:
  """Tokens of a split, made once and kept in `folder` as memory maps.

  name: of the texts and of all that they depend on.
  Written aside and renamed, so that processes that do it at once do no harm.
  """
  key = f'{_VERSION}/{name}/{tokenizer.fingerprint}/{tokenizer.reading}'
  digest = hashlib.sha256(key.encode())
  final = folder / digest.hexdigest()[:24]
  if not final.exists():
    with writing_cache(folder):
      scratch = Path(tempfile.mkdtemp(dir=folder))
      try:
        _write(tokenizer, texts, scratch)
        os.replace(scratch, final)
      except OSError:
        if not final.exists():
          raise
      finally:
        shutil.rmtree(scratch, ignore_errors=True)
  facts = json.loads((final / 'facts.json').read_text())
  size = facts['tokens']
  ids = (
    np.memmap(final / 'ids.bin', np.int32, 'r', shape=(size,))
    if size
    else np.zeros(0, np.int32)
  )
  ends, coverage = np.load(final / 'ends.npy'), Coverage(*facts['coverage'])
  return Tokens(ids, ends, facts['bytes'], coverage)


def _write(tokenizer: Tokenizer, texts: Iterable[str], folder: Path) -> None:
  ends, total, num_bytes, coverage = [], 0, 0, Coverage()
  eos = tokenizer.vocab.eos_id
  tail = np.asarray([] if eos is None else [eos], np.int32)
  with open(folder / 'ids.bin', 'wb') as file:
    for text in texts:
      own = tokenizer.encode(text)
      ids = np.concatenate([own, tail]).astype(np.int32)
      file.write(ids.tobytes())
      total += len(ids)
      coverage = coverage.plus(measure(tokenizer, text, own))
      num_bytes += len(text.encode('utf-8', 'surrogatepass'))
      ends.append(total)
  np.save(folder / 'ends.npy', np.asarray(ends, np.int64))
  facts = {'tokens': total, 'bytes': num_bytes, 'coverage': coverage}
  (folder / 'facts.json').write_text(json.dumps(facts))


class Rows:
  """Random access to rows: {'ids', 'segments', 'positions'}, int32 [L].

  Args:
    tokens: a split.
    length: L.
    kind: `packed` runs documents on and cuts every L tokens; `document` gives
      each a row of its own.
    respect_documents: packed rows number their documents in `segments` and
      count `positions` from each one's start; else a row is one segment.
    model_padding: padding is part of the text, segment 1.
    pad_id: what padding is.
    keep_tail: whether a last packed row that is not full stays, padded.
    long: what becomes of a document that does not fit a row of its own:
      `refuse` raises UserError, `drop` leaves it out, `cut` shortens it from
      its end, its eos aside.
  """

  def __init__(
    self,
    tokens: Tokens,
    length: int,
    kind: Literal['packed', 'document'],
    respect_documents: bool,
    model_padding: bool,
    pad_id: int,
    keep_tail: bool,
    long: Literal['refuse', 'cut', 'drop'] = 'refuse',
  ):
    self.tokens, self.length, self.kind = tokens, length, kind
    self._respect, self._model_padding = respect_documents, model_padding
    self._pad_id = pad_id
    whole, rest = divmod(len(tokens.ids), length)
    self._packed = whole + (keep_tail and rest > 0)
    sizes = np.diff(tokens.ends, prepend=0)
    is_refused = kind == 'document' and long == 'refuse' and len(sizes) > 0
    if is_refused and sizes.max() > length:
      worst = int(sizes.argmax())
      raise UserError(
        f'document {worst} has {sizes[worst]} tokens, its end included, and '
        f'the row {length}: raise data.length, set data.long=cut or drop, or '
        'use data.rows=packed'
      )
    fits = sizes <= length if long == 'drop' else np.ones_like(sizes, bool)
    self._index = np.flatnonzero(fits)  # of the documents that have a row
    self._sizes = np.minimum(sizes[self._index], length)

  def __len__(self) -> int:
    return len(self._index) if self.kind == 'document' else self._packed

  @property
  def needed(self) -> np.ndarray:
    """[rows] the least length that holds each."""
    if self.kind == 'document':
      return self._sizes
    return np.full(len(self), self.length)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return self.row(index, self.length)

  def row(self, index: int, length: int) -> dict[str, np.ndarray]:
    """Padded to `length`, which must hold it."""
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(index)
    ends, start, stop = self.tokens.ends, 0, 0
    if self.kind == 'document':
      document = _document(self.tokens, int(self._index[index]))
      taken = _shortened(document, self.length)
    else:
      start = index * self.length
      stop = min(start + self.length, len(self.tokens.ids))
      taken = self.tokens.ids[start:stop]
    count = len(taken)
    ids = np.full(length, self._pad_id, np.int32)
    ids[:count] = taken
    segments = np.full(length, int(self._model_padding), np.int32)
    positions = np.arange(length, dtype=np.int32)
    segments[:count] = 1
    if self.kind == 'packed' and self._respect:
      document = np.searchsorted(ends, np.arange(start, stop), side='right')
      segments[:count] = document - document[0] + 1
      begin = np.where(document > 0, ends[document - 1], 0)
      positions[:count] -= np.maximum(begin - start, 0).astype(np.int32)
    return {'ids': ids, 'segments': segments, 'positions': positions}

  def documents(self, index: int) -> np.ndarray:
    """[L] the number in the split of each token's document.

    Modelled padding belongs to the document of its row; what stands at other
    padding means nothing.
    """
    if self.kind == 'document':
      return np.full(self.length, int(index))
    start = int(index) * self.length
    places = np.arange(start, start + self.length)
    return np.searchsorted(self.tokens.ends, places, side='right')


class PairRows:
  """Random access to rows of a source and a target, each with its eos.

  `joined`: {'ids', 'segments', 'positions', 'is_given'}, int32 and bool [L]:
  the source, which is given, the target, padding. `separate`: {'ids',
  'segments', 'positions'} of the target and {'source', 'source_segments'},
  [source_length], of what an encoder reads. needed: [rows] the least length
  that holds each.

  Args:
    sources, targets: a split, document i of one to document i of the other.
    length, source_length: of the rows.
    kind: how they are laid out.
    long: what becomes of a pair that does not fit: `refuse` raises UserError,
      `drop` leaves it out, `cut` shortens the longer side from its end until it
      fits, its eos aside.
    model_padding: padding is part of the target, segment 1.
    pad_id: what padding is.
  """

  def __init__(
    self,
    sources: Tokens,
    targets: Tokens,
    length: int,
    source_length: int,
    kind: Literal['joined', 'separate'],
    long: Literal['refuse', 'cut', 'drop'],
    model_padding: bool,
    pad_id: int,
  ):
    self.tokens, self.sources, self.length = targets, sources, length
    self._kind, self._model_padding, self._pad_id = kind, model_padding, pad_id
    self._room = source_length
    self._first_of: dict[bytes, int] = {}
    sizes = [np.diff(side.ends, prepend=0) for side in (sources, targets)]
    if kind == 'joined':
      is_long = sizes[0] + sizes[1] > length
    else:
      is_long = (sizes[0] > source_length) | (sizes[1] > length)
    if long == 'refuse' and is_long.any():
      worst = int(np.flatnonzero(is_long)[0])
      raise UserError(
        f'pair {worst} has {sizes[0][worst]} and {sizes[1][worst]} tokens, '
        f'their ends included: {is_long.sum()} of {len(is_long)} pairs do not '
        'fit; raise data.length (of separate rows data.source_length too) or '
        'set data.long=cut or drop'
      )
    fits = ~is_long if long == 'drop' else np.ones_like(is_long)
    self.index = np.flatnonzero(fits)
    if kind == 'joined':
      needed = sizes[0] + sizes[1]
    else:  # a row's source is as much shorter as its target
      needed = np.maximum(
        (sizes[0] - 1) * length // source_length + 1, sizes[1]
      )
    self.needed = np.minimum(needed[self.index], length)

  def __len__(self) -> int:
    return len(self.index)

  def __getitem__(self, place: int) -> dict[str, np.ndarray]:
    return self.row(place, self.length)

  def row(
    self, place: int, length: int, has_source: bool = True
  ) -> dict[str, np.ndarray]:
    """Padded to `length`, which must hold it; its source in proportion.

    A joined row may leave its source out: then it is the target alone.
    """
    place = int(place)
    if not 0 <= place < len(self):
      raise IndexError(place)
    index = self.index[place]
    source, target = (_document(x, index) for x in (self.sources, self.tokens))
    if self._kind == 'joined':
      source, target = _fitted(source, target, self.length)
      source = source[: None if has_source else 0]
      row = self._padded(np.concatenate([source, target]), length)
      is_given = np.arange(length) < len(source)
      return {**row, 'is_given': is_given}
    row = self._padded(_shortened(target, self.length), length)
    source = _shortened(source, self._room)
    room = -(-self._room * length // self.length)
    seen = np.zeros(room, np.int32)
    seen[: len(source)] = source
    is_there = np.arange(room) < len(source)
    return {
      **row,
      'source': seen,
      'source_segments': is_there.astype(np.int32),
    }

  def documents(self, place: int) -> np.ndarray:
    """[L] one number for all pairs of the same source.

    Their targets are not independent. The number is that of the pair of this
    source for which this function was called first.
    """
    index = self.index[int(place)]
    source = _document(self.sources, index).tobytes()
    number = self._first_of.setdefault(source, int(index))
    return np.full(self.length, number)

  def _padded(self, ids: np.ndarray, length: int) -> dict[str, np.ndarray]:
    row = np.full(length, self._pad_id, np.int32)
    segments = np.full(length, int(self._model_padding), np.int32)
    row[: len(ids)], segments[: len(ids)] = ids, 1
    positions = np.arange(length, dtype=np.int32)
    return {'ids': row, 'segments': segments, 'positions': positions}


def _document(tokens: Tokens, index: int) -> np.ndarray:
  start = int(tokens.ends[index - 1]) if index else 0
  return np.asarray(tokens.ids[start : int(tokens.ends[index])])


def _shortened(ids: np.ndarray, length: int) -> np.ndarray:
  """At most `length`, the last one kept."""
  if len(ids) <= length:
    return ids
  return np.concatenate([ids[: length - 1], ids[-1:]])


def _fitted(
  source: np.ndarray, target: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Tokens go one by one from the longer side, as DiffuSeq's do."""
  excess = len(source) + len(target) - length
  if excess <= 0:
    return source, target
  longer, shorter = max(len(source), len(target)), min(len(source), len(target))
  alone = min(excess, longer - shorter)
  rest = excess - alone
  of_longer, of_shorter = alone + (rest + 1) // 2, rest // 2
  cuts = (of_longer, of_shorter)
  if len(target) > len(source):
    cuts = (of_shorter, of_longer)
  return (
    _shortened(source, len(source) - cuts[0]),
    _shortened(target, len(target) - cuts[1]),
  )
