"""Rows of a fixed length, cut on access from one array of all tokens."""

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

_VERSION = 2  # Version of the file format of cached tokens.


class Tokens(NamedTuple):
  """The tokens of a split.

  Attributes:
    ids: [N] token ids of all documents, each with its eos.
    ends: [documents] index in `ids` after the last token of each document.
    num_bytes: UTF-8 bytes of the texts.
    coverage: counts of unknown tokens and lost bytes.
  """

  ids: np.ndarray
  ends: np.ndarray
  num_bytes: int
  coverage: Coverage = Coverage()


def tokenize(
  name: str, tokenizer: Tokenizer, texts: Iterable[str], folder: Path
) -> Tokens:
  """Tokenises a split, or loads its tokens from the cache as a memory map.

  The files are written to a temporary folder and renamed, so that several
  processes may tokenise the same split at once.

  Args:
    name: identifies the texts and everything that they depend on.
    tokenizer: the tokenizer.
    texts: the documents.
    folder: folder of the cache.
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
  """Writes ids.bin, ends.npy and facts.json to `folder`."""
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
    tokens: the tokens of a split.
    length: tokens in a row, L.
    kind: `packed` concatenates the documents and cuts every L tokens;
      `document` gives each document a row of its own.
    respect_documents: whether packed rows number their documents in `segments`
      and count `positions` from the start of each document. Otherwise a row is
      one segment.
    model_padding: whether padding is part of the text (segment 1).
    pad_id: id of padding.
    keep_tail: whether a last packed row that is not full is kept and padded.
    long: what happens to a document that does not fit into its own row:
      `refuse` raises UserError, `drop` leaves the document out, `cut` removes
      tokens from its end but keeps its eos.

  Raises:
    UserError: a document is too long and `long` is `refuse`.
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
    self._index = np.flatnonzero(fits)  # The documents that have a row.
    self._sizes = np.minimum(sizes[self._index], length)

  def __len__(self) -> int:
    return len(self._index) if self.kind == 'document' else self._packed

  @property
  def needed(self) -> np.ndarray:
    """[rows] the smallest length that holds each row."""
    if self.kind == 'document':
      return self._sizes
    return np.full(len(self), self.length)

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return self.row(index, self.length)

  def row(self, index: int, length: int) -> dict[str, np.ndarray]:
    """Returns a row padded to `length`, which must not be too short for it."""
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
    """Returns [L] the number of each token's document in the split.

    Padding that is modelled belongs to the document of its row. At other
    padding the values are arbitrary.
    """
    if self.kind == 'document':
      return np.full(self.length, int(index))
    start = int(index) * self.length
    places = np.arange(start, start + self.length)
    return np.searchsorted(self.tokens.ends, places, side='right')


class PairRows:
  """Random access to rows of a source and a target, each with its eos.

  A `joined` row is {'ids', 'segments', 'positions', 'is_given'}, int32 and bool
  [L]: the source (which is given), the target, padding. A `separate` row is
  {'ids', 'segments', 'positions'} [L] of the target, and {'source',
  'source_segments'} [source_length] for an encoder.

  Args:
    sources: the tokens of the sources of a split.
    targets: the tokens of the targets; target i belongs to source i.
    length: tokens in a row, L.
    source_length: tokens in a separate source.
    kind: layout of the rows.
    long: what happens to a pair that does not fit: `refuse` raises UserError,
      `drop` leaves the pair out, `cut` removes tokens from the end of the
      longer side, but not its eos, until the pair fits.
    model_padding: whether padding is part of the target (segment 1).
    pad_id: id of padding.

  Attributes:
    needed: [rows] the smallest length that holds each row.

  Raises:
    UserError: a pair is too long and `long` is `refuse`.
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
    else:  # The source of a bucket is shortened in proportion to its target.
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
    """Returns a row padded to `length`, which must not be too short for it.

    Args:
      place: index of the row.
      length: tokens of the row. The length of a separate source changes in
        proportion.
      has_source: whether a joined row contains its source; otherwise the row
        is the target alone.
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
    padded = np.zeros(room, np.int32)
    padded[: len(source)] = source
    is_there = np.arange(room) < len(source)
    return {
      **row,
      'source': padded,
      'source_segments': is_there.astype(np.int32),
    }

  def documents(self, place: int) -> np.ndarray:
    """Returns [L] a number that is equal for all pairs with the same source.

    The targets of such pairs are not independent samples. The number is the
    index of the first pair with this source that was passed to this method.
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
  """Returns the tokens of a document, its eos included."""
  start = int(tokens.ends[index - 1]) if index else 0
  return np.asarray(tokens.ids[start : int(tokens.ends[index])])


def _shortened(ids: np.ndarray, length: int) -> np.ndarray:
  """Returns at most `length` tokens; the last token is always kept."""
  if len(ids) <= length:
    return ids
  return np.concatenate([ids[: length - 1], ids[-1:]])


def _fitted(
  source: np.ndarray, target: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
  """Shortens a pair to `length` tokens in total.

  Tokens are removed one by one from the longer side, as in DiffuSeq (Gong et
  al. 2023).
  """
  excess = len(source) + len(target) - length
  if excess <= 0:
    return source, target
  longer, shorter = max(len(source), len(target)), min(len(source), len(target))
  alone = min(excess, longer - shorter)
  rest = excess - alone
  long_cut, short_cut = alone + (rest + 1) // 2, rest // 2
  cuts = (long_cut, short_cut)
  if len(target) > len(source):
    cuts = (short_cut, long_cut)
  return (
    _shortened(source, len(source) - cuts[0]),
    _shortened(target, len(target) - cuts[1]),
  )
