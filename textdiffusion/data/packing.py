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
from textdiffusion.data.tokenizers import Tokenizer


class Tokens(NamedTuple):
  """A split, tokenised. ids: [N] of all documents, each with its eos.

  ends: [documents] where each one ends in `ids`. num_bytes: of the texts.
  """

  ids: np.ndarray
  ends: np.ndarray
  num_bytes: int


def tokenize(
  name: str, tokenizer: Tokenizer, texts: Iterable[str], folder: Path
) -> Tokens:
  """Tokens of a split, made once and kept in `folder` as memory maps.

  Written aside and renamed, so that processes that do it at once do no harm.
  """
  digest = hashlib.sha256(f'{name}/{tokenizer.fingerprint}'.encode())
  final = folder / digest.hexdigest()[:24]
  if not final.exists():
    folder.mkdir(parents=True, exist_ok=True)
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
  return Tokens(ids, np.load(final / 'ends.npy'), facts['bytes'])


def _write(tokenizer: Tokenizer, texts: Iterable[str], folder: Path) -> None:
  ends, total, num_bytes = [], 0, 0
  eos = tokenizer.vocab.eos_id
  tail = np.asarray([] if eos is None else [eos], np.int32)
  with open(folder / 'ids.bin', 'wb') as file:
    for text in texts:
      ids = np.concatenate([tokenizer.encode(text), tail]).astype(np.int32)
      file.write(ids.tobytes())
      total += len(ids)
      num_bytes += len(text.encode('utf-8', 'surrogatepass'))
      ends.append(total)
  np.save(folder / 'ends.npy', np.asarray(ends, np.int64))
  facts = {'tokens': total, 'bytes': num_bytes}
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
  ):
    self.tokens, self.length, self.kind = tokens, length, kind
    self._respect, self._model_padding = respect_documents, model_padding
    self._pad_id = pad_id
    whole, rest = divmod(len(tokens.ids), length)
    self._packed = whole + (keep_tail and rest > 0)
    if kind == 'document':
      sizes = np.diff(tokens.ends, prepend=0)
      if len(sizes) and sizes.max() > length:
        worst = int(sizes.argmax())
        raise UserError(
          f'document {worst} has {sizes[worst]} tokens, its end included, and '
          f'the row {length}: raise data.length or use data.rows=packed'
        )

  def __len__(self) -> int:
    return len(self.tokens.ends) if self.kind == 'document' else self._packed

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(index)
    ends = self.tokens.ends
    if self.kind == 'document':
      start = int(ends[index - 1]) if index else 0
      stop = int(ends[index])
    else:
      start = index * self.length
      stop = min(start + self.length, len(self.tokens.ids))
    count = stop - start
    ids = np.full(self.length, self._pad_id, np.int32)
    ids[:count] = self.tokens.ids[start:stop]
    segments = np.full(self.length, int(self._model_padding), np.int32)
    positions = np.arange(self.length, dtype=np.int32)
    segments[:count] = 1
    if self.kind == 'packed' and self._respect:
      document = np.searchsorted(ends, np.arange(start, stop), side='right')
      segments[:count] = document - document[0] + 1
      begin = np.where(document > 0, ends[document - 1], 0)
      positions[:count] -= np.maximum(begin - start, 0).astype(np.int32)
    return {'ids': ids, 'segments': segments, 'positions': positions}
