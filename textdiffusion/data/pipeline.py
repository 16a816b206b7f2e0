"""Turns a source into batches: split, tokenise, cut into rows, shuffle, shard.

The order of rows is one global sequence, and each host takes its part of every
global batch. So the data do not depend on the number of hosts, and the state of
an iterator is the number of batches that it has returned.
"""

import dataclasses
import hashlib
import importlib.metadata
import itertools
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import grain
import numpy as np

from textdiffusion.core.keys import check_seed
from textdiffusion.core.types import UserError
from textdiffusion.core.validation import check_fields
from textdiffusion.data.corpora import cache_dir, writing_cache
from textdiffusion.data.files import Files
from textdiffusion.data.packing import PairRows, Rows, Tokens, tokenize
from textdiffusion.data.sources import Source, Split, open_source
from textdiffusion.data.tokenizer import VERSION, Tokenizer
from textdiffusion.data.tokenizers import (
  SentencePiece,
  TokenizerConfig,
  build,
)

_FOREVER = 1 << 48  # Rows; a run ends after its steps, never for lack of data.


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """What texts to read, and how to turn them into batches.

  Attributes:
    source: where the texts come from: a string (see `data/sources.py`) or
      `Files`.
    tokenizer: the tokenizer.
    length: tokens in a row, L.
    batch_size: rows of the global batch.
    rows: layout of a row. `packed` and `document` are described in
      `packing.Rows`, `joined` and `separate` (for pairs) in `packing.PairRows`.
    respect_documents: whether the documents of a packed row are kept apart; see
      `packing.Rows`.
    model_padding: whether padding is part of the text, see `packing.Rows`.
    source_length: tokens in the source of a separate row; 0 for other rows.
    long: what happens to a pair, or to a document with its own row, that does
      not fit: `refuse` raises UserError, `cut` shortens it, `drop` leaves it
      out.
    buckets: increasing lengths below `length`. A training batch contains rows
      of one bucket, the shortest that holds them, and is padded to its length
      only. Each length is compiled once. The loss is a mean over the tokens of
      a batch, so tokens of short rows weigh more. Evaluation uses full rows.
    holdout: share of the documents held out for evaluation; 1 evaluates on all
      documents of a source that was not used for training.
    seed: seed of the shuffle.
    max_unknown: largest share of unknown tokens, and of bytes that the
      tokenizer loses, allowed in each split; more raises UserError.
    source_dropout: share of joined training rows whose source is left out,
      drawn anew for each use of a row. The network then also learns the
      targets without a source, for guidance (Ho & Salimans 2022).
  """

  config_group = 'data'

  source: str = 'python_docs'
  tokenizer: TokenizerConfig = TokenizerConfig()
  length: int = 128
  batch_size: int = 16
  rows: Literal['packed', 'document', 'joined', 'separate'] = 'packed'
  respect_documents: bool = False
  model_padding: bool = False
  source_length: int = 0
  long: Literal['refuse', 'cut', 'drop'] = 'refuse'
  buckets: tuple[int, ...] = ()
  holdout: float = 0.05
  seed: int = 0
  max_unknown: float = 0.5
  source_dropout: float = 0.0

  def __post_init__(self) -> None:
    source: Any = self.source
    if isinstance(source, Files):
      object.__setattr__(self, 'source', str(source))
    check_fields(
      self,
      length='[2, inf)',
      batch_size='[1, inf)',
      source_dropout='[0, 1]',
      max_unknown='[0, 1]',
    )
    if (self.rows == 'separate') != (self.source_length >= 2):
      raise UserError(
        f'data.source_length={self.source_length} with data.rows={self.rows}: '
        'separate rows need a length of sources of at least 2, the others 0'
      )
    check_seed('data.seed', self.seed)
    if self.batch_size * (self.length + self.source_length) >= 2**31:
      raise UserError(
        f'data.length={self.length}, data.source_length={self.source_length} '
        f'with data.batch_size={self.batch_size}: a batch must have fewer than '
        '2**31 tokens'
      )
    if self.model_padding and self.rows == 'packed':
      raise UserError(
        'data.model_padding needs rows of one text each: set data.rows=document'
      )
    lengths = (1, *self.buckets, self.length)
    if any(b <= a for a, b in itertools.pairwise(lengths)):
      raise UserError(
        f'data.buckets={self.buckets}: lengths must grow, from at least 2 to '
        f'below data.length={self.length}'
      )
    if self.buckets and (self.rows == 'packed' or self.model_padding):
      raise UserError(
        f'data.buckets={self.buckets}: packed rows and modelled padding fill '
        'every row; leave it empty'
      )

  def protocol(self) -> str:
    """Describes the data that a reported figure depends on."""
    layout = (
      self.rows
      + ' rows'
      + (', documents kept apart' if self.respect_documents else '')
    )
    if '{split}' in self.source:
      heldout = 'the split named for it'
    elif self.source.partition('?')[0] == 'e2e':
      is_test = 'heldout=test' in self.source
      heldout = f'its official {"test" if is_test else "validation"} split'
    elif self.source.partition(':')[0] in ('toy_grammar', 'toy_pairs'):
      heldout = 'held-out sentences of another seed'
    elif self.holdout == 1:
      heldout = 'all of its documents'
    else:
      heldout = f'held-out {self.holdout:g} of documents by hash'
    return (
      f'{self.source}, {heldout}; '
      f'{self.tokenizer.kind} tokens; {layout} of {self.length}'
    )


@dataclasses.dataclass(frozen=True)
class Data:
  """Tokenised data in two splits.

  Attributes:
    tokenizer: the tokenizer.
    fingerprint: hash of texts, tokenizer and row settings.
    train: rows of the training split.
    heldout: rows of the held-out split.
    counts: numbers of documents, tokens and bytes of each split.
    source: the source of the texts.
  """

  tokenizer: Tokenizer
  fingerprint: str
  train: Rows | PairRows
  heldout: Rows | PairRows
  counts: dict[str, dict[str, int]]
  source: Source

  def texts(self, split: Split) -> Iterator[str]:
    """Yields the documents of a split, read again from the source."""
    return self.source.documents(split)

  def token_counts(self) -> tuple[int, ...]:
    """Returns how often each id occurs in the training split, eos included."""
    ids, size = self.train.tokens.ids, self.tokenizer.vocab.size
    counts = np.zeros(size, np.int64)
    for start in range(0, len(ids), 1 << 24):
      counts += np.bincount(ids[start : start + (1 << 24)], minlength=size)
    return tuple(int(count) for count in counts)


def open_data(
  config: DataConfig,
  tokenizer: Tokenizer | None = None,
  needs_training: bool = True,
) -> Data:
  """Opens a source, splits it and tokenises it; tokens are cached on disk.

  Prints to stderr which share of the texts the tokenizer cannot represent.

  Args:
    config: settings of the data.
    tokenizer: the tokenizer of a checkpoint; built from the config if None.
    needs_training: whether the training split must have at least one row.

  Raises:
    UserError: the source cannot be read, is too small, or does not fit the
      tokenizer or the row layout.
  """
  source = open_source(config.source, config.holdout)
  if tokenizer is None:
    multiple = config.tokenizer.multiple
    tokenizer = _tokenizer(config.tokenizer, source).filled(multiple)
  else:
    check_same_tokenizer(config.tokenizer, tokenizer)
  folder = cache_dir() / 'tokens'

  texts = f'{source.fingerprint}/{source.reading}'

  def tokens(split: Split) -> Tokens:
    documents = source.documents(split)
    return tokenize(f'{texts}/{split}', tokenizer, documents, folder)

  splits = {'train': tokens('train'), 'heldout': tokens('heldout')}
  parts = {f'the {split} split': part for split, part in splits.items()}
  pad, kind = tokenizer.vocab.pad_id, config.rows
  if pad is None and kind != 'packed':
    raise UserError(
      f'the tokenizer has no pad token, which data.rows={kind} needs: add '
      "'pad' to data.tokenizer.specials"
    )
  paired = source.pairs
  if paired is None and kind in ('joined', 'separate'):
    raise UserError(
      f'data.rows={kind} needs pairs: data.source=pairs:..., not '
      f'{config.source}'
    )

  def rows(split: Split) -> Rows | PairRows:
    if paired is not None and (kind == 'joined' or kind == 'separate'):
      sources = tokenize(
        f'{texts}/{split}/source',
        tokenizer,
        (one for one, _ in paired(split)),
        folder,
      )
      parts[f'the sources of the {split} split'] = sources
      return PairRows(
        sources,
        splits[split],
        config.length,
        config.source_length,
        kind,
        config.long,
        config.model_padding,
        0 if pad is None else pad,
      )
    assert kind == 'packed' or kind == 'document'
    return Rows(
      splits[split],
      config.length,
      kind,
      config.respect_documents,
      config.model_padding,
      0 if pad is None else pad,
      keep_tail=split == 'heldout',
      long=config.long,
    )

  train, heldout = rows('train'), rows('heldout')
  _report_unknown(parts, config, tokenizer)
  if needs_training and not len(train):
    mend = (
      'lower data.holdout, or cut files into documents with ?split=line'
      if len(splits['heldout'].ids) > len(splits['train'].ids)
      else 'lower data.length or give it more text'
    )
    raise UserError(
      f'data.source={config.source} is too small: its training split has '
      f'{len(splits["train"].ids)} tokens, not one row of {config.length}: '
      + mend
    )
  counts = {
    split: {
      'documents': len(part.ends),
      'tokens': len(part.ids),
      'bytes': part.num_bytes,
    }
    for split, part in splits.items()
  }
  fingerprint = data_fingerprint(config, source, tokenizer)
  return Data(tokenizer, fingerprint, train, heldout, counts, source)


def without_sources(data: Data, config: DataConfig) -> tuple[Data, DataConfig]:
  """Returns the targets of pairs as documents of their own.

  These are the rows that `source_dropout` leaves without a source.

  Args:
    data: joined pairs.
    config: the config of `data`.

  Returns:
    The data and their config.
  """
  pad = data.tokenizer.vocab.pad_id
  alone = dataclasses.replace(
    config, rows='document', source_dropout=0.0, buckets=()
  )

  def rows(split: Split, pairs: Rows | PairRows) -> Rows:
    return Rows(
      pairs.tokens,
      alone.length,
      'document',
      alone.respect_documents,
      alone.model_padding,
      0 if pad is None else pad,
      keep_tail=split == 'heldout',
      long=alone.long,
    )

  parts = rows('train', data.train), rows('heldout', data.heldout)
  found = dataclasses.replace(
    data,
    train=parts[0],
    heldout=parts[1],
    fingerprint=data_fingerprint(alone, data.source, data.tokenizer),
  )
  return found, alone


def _report_unknown(
  parts: dict[str, Tokens], config: DataConfig, tokenizer: Tokenizer
) -> None:
  """Prints which share of each part the tokenizer cannot represent, if any.

  Raises:
    UserError: a share is above `data.max_unknown`.
  """
  for name, part in parts.items():
    message = part.coverage.describe(name, tokenizer.kind)
    if part.coverage.share > config.max_unknown:
      raise UserError(
        f'data.source={config.source}: {message}, and data.max_unknown='
        f'{config.max_unknown:g}: choose another data.tokenizer, or '
        '--set=data.max_unknown=1'
      )
    if message:
      print(message, file=sys.stderr)


def data_fingerprint(
  config: DataConfig, source: Source, tokenizer: Tokenizer
) -> str:
  """Returns a hash of everything that the set of rows depends on.

  The order of the rows does not change it.

  Args:
    config: settings of the data.
    source: the source of the texts.
    tokenizer: the tokenizer.
  """
  settings = dataclasses.asdict(config)
  pair_fields: tuple[str, ...] = ()
  if source.pairs is None:
    # With `refuse`, fingerprints stay as they were before documents had `long`.
    is_cut = config.rows == 'document' and config.long != 'refuse'
    pair_fields = ('source_length',) if is_cut else ('source_length', 'long')
  order_fields = (
    'batch_size',
    'seed',
    'buckets',
    'max_unknown',
    'source_dropout',
  )
  for name in (*order_fields, 'tokenizer', 'source', *pair_fields):
    del settings[name]
  parts = (
    f'{source.fingerprint}/{tokenizer.fingerprint}/{sorted(settings.items())}'
  )
  return hashlib.sha256(parts.encode()).hexdigest()[:16]


def _tokenizer(config: TokenizerConfig, source: Source) -> Tokenizer:
  """Returns the configured tokenizer; SentencePiece models are cached."""
  if config.path or config.kind not in ('sentencepiece', 'words'):
    return build(config, ())
  if config.kind == 'words':
    return build(config, source.texts())
  identity = (
    f'{source.fingerprint}/{source.reading}/{config.vocab_size}/'
    f'{VERSION}/{importlib.metadata.version("sentencepiece")}'
  )
  folder = cache_dir() / 'tokenizers'
  path = folder / f'{hashlib.sha256(identity.encode()).hexdigest()[:24]}.model'
  if path.exists():
    return SentencePiece(path.read_bytes(), config.specials)
  trained = SentencePiece.train(
    source.texts(), config.vocab_size, config.specials
  )
  # Written to a temporary file and renamed, so that no process reads a part.
  with writing_cache(folder):
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
      file.write(trained.model)
    os.replace(file.name, path)
  return trained


def check_same_tokenizer(config: TokenizerConfig, tokenizer: Tokenizer) -> None:
  """Raises UserError if the config describes another tokenizer.

  Args:
    config: settings of the tokenizer.
    tokenizer: the tokenizer of a checkpoint.
  """
  is_other = (
    config.kind != tokenizer.kind
    or config.multiple != tokenizer.multiple
    or config.split != getattr(tokenizer, 'split', 'spaces')
    or set(config.specials) != set(tokenizer.specials)
  )
  if not is_other and config.path:
    is_other = build(config, ()) != tokenizer
  elif not is_other and config.kind == 'sentencepiece':
    is_other = config.vocab_size != tokenizer.base_size
  if is_other:
    wanted = f'{config.kind} {config.path}'.strip()
    raise UserError(
      f'the checkpoint has a {tokenizer.kind} tokenizer '
      f'({tokenizer.fingerprint}, multiple of {tokenizer.multiple}), the data '
      f'ask for another ({wanted}, multiple of {config.multiple}): leave '
      'data.tokenizer as it was'
    )


def train_iterator(
  rows: Rows | PairRows,
  batch_size: int,
  seed: int,
  host: int = 0,
  num_hosts: int = 1,
  buckets: tuple[int, ...] = (),
  source_dropout: float = 0.0,
) -> grain.DatasetIterator:
  """Returns an endless iterator over this host's share of the batches.

  A batch is a dict of arrays [batch_size / num_hosts, L], among them `rows` [b]
  with the index of each row in the global batch. Every epoch is a new global
  shuffle in which each row occurs once. Each bucket has a shuffle of its own,
  and the buckets alternate in proportion to their numbers of rows, in the same
  order on all hosts. `get_state()` and `set_state()` resume exactly; the state
  is JSON, and equal for any number of hosts.

  Args:
    rows: the rows of a split.
    batch_size: rows of the global batch.
    seed: seed of the shuffle.
    host: index of this host.
    num_hosts: number of hosts.
    buckets: shorter lengths of rows, see `DataConfig`.
    source_dropout: probability with which a joined row loses its source. The
      draw depends on the seed, the batch and the place in the global batch.

  Raises:
    UserError: the hosts cannot share a batch evenly.
  """
  if batch_size % num_hosts:
    raise UserError(
      f'data.batch_size={batch_size} is not divisible by {num_hosts} hosts'
    )
  share = batch_size // num_hosts
  lengths, members = _buckets(rows, buckets)
  orders = [
    grain.MapDataset.range(len(rows_of)).shuffle(seed=(seed + i) % 2**32)
    for i, rows_of in enumerate(members)
  ]
  orders = [order.repeat() for order in orders]
  # Maps the number of a batch to its bucket and its number in that bucket.
  turns = grain.MapDataset.mix(
    [
      grain.MapDataset.range(_FOREVER).map(lambda i, which=which: (which, i))
      for which in range(len(members))
    ],
    [len(rows_of) for rows_of in members],
  )

  def fetch(index: int) -> dict[str, np.ndarray | np.int32]:
    batch, place = divmod(index, share)
    row = host * share + place
    turn: Any = turns[batch]
    which, number = turn
    taken: Any = orders[which][number * batch_size + row]
    place, length = members[which][taken], lengths[which]
    if source_dropout and isinstance(rows, PairRows):
      drawn = np.random.default_rng([seed, batch, row]).random()
      found = rows.row(place, length, drawn >= source_dropout)
    else:
      found = rows.row(place, length)
    return {**found, 'rows': np.int32(row)}

  batches = grain.MapDataset.range(_FOREVER).map(fetch).batch(share)
  options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=16)
  return iter(batches.to_iter_dataset(options))


def _buckets(
  rows: Rows | PairRows, shorter: tuple[int, ...]
) -> tuple[list[int], list[Sequence[int]]]:
  """Returns the lengths of the buckets that have rows, and their rows."""
  if not shorter:
    return [rows.length], [range(len(rows))]
  lengths = [*shorter, rows.length]
  which = np.searchsorted(lengths, rows.needed)
  members: list[Any] = [np.flatnonzero(which == i) for i in range(len(lengths))]
  some = [i for i, found in enumerate(members) if len(found)]
  return [lengths[i] for i in some], [members[i] for i in some]


def eval_rows(
  count: int, limit: int = 0, seed: int | None = None
) -> np.ndarray:
  """Returns the sorted indices of the rows that are evaluated.

  Args:
    count: number of rows.
    limit: largest number of rows to evaluate; 0 evaluates all.
    seed: seed of a random choice of rows; None takes the first `limit`.
  """
  if not limit or limit >= count:
    return np.arange(count)
  if seed is None:
    return np.arange(limit)
  chosen = np.random.default_rng(seed).choice(count, limit, replace=False)
  return np.sort(chosen)


def eval_batches(
  rows: Rows | PairRows,
  batch_size: int,
  limit: int = 0,
  seed: int | None = None,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields batches of the rows of `eval_rows`; padding rows fill the last one.

  In addition to the arrays of its rows, a batch has `rows` [B], the place of
  each row in the order of evaluation, and `documents` [B, L], the number of
  each token's document, -1 at padding.

  Args:
    rows: the rows of a split.
    batch_size: rows of a batch, B.
    limit: largest number of rows to evaluate; 0 evaluates all.
    seed: seed of a random choice of rows; None takes the first `limit`.
  """
  order = eval_rows(len(rows), limit, seed)
  for start in range(0, len(order), batch_size):
    places = order[start : start + batch_size]
    taken = [{**rows[i], 'documents': rows.documents(i)} for i in places]
    blank = {k: np.zeros_like(v) for k, v in taken[0].items()}
    taken += [blank] * (batch_size - len(taken))
    batch = {k: np.stack([row[k] for row in taken]) for k in taken[0]}
    batch['rows'] = np.arange(start, start + batch_size, dtype=np.int32)
    is_padding = batch['segments'] == 0
    batch['documents'] = np.where(is_padding, -1, batch['documents'])
    yield batch
