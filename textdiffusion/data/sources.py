"""Where documents come from: one string names a source.

python_docs, python_source        bundled, of the running interpreter
toy_grammar[:COUNT]               sentences of a known law
tfds:NAME[:CONFIG]/SPLIT?key=text any TFDS dataset with a text feature
files:GLOB[?key=text]             .txt and .txt.gz (a file is a document; with
                                  ?split=line a line is, with ?split=blank
                                  what stands between blank lines), .jsonl (a
                                  line is a document, its text in field `key`)
pairs:...                         see `pairs`; as documents, the targets
toy_pairs[:COUNT]                 a sentence of the grammar -> its words in the
                                  opposite order
"""

import contextlib
import dataclasses
import difflib
import glob
import gzip
import hashlib
import itertools
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

import numpy as np

from textdiffusion.core.types import UserError
from textdiffusion.data.corpora import (
  BUNDLED,
  bundled,
  bundled_fingerprint,
  quiet_tfds,
)
from textdiffusion.data.grammar import toy_grammar
from textdiffusion.data.pairs import (
  Pair,
  fingerprint,
  named_split,
  read_pairs,
)

Split = Literal['train', 'heldout']
_SENTENCES = 50_000


@dataclasses.dataclass(frozen=True)
class Source:
  """fingerprint: changes with the texts. documents: yields one split.

  log_prob: nats of a document under the law it was drawn from, if known.
  pairs: yields (source, target) of one split, the documents being targets.
  """

  fingerprint: str
  documents: Callable[[Split], Iterator[str]]
  log_prob: Callable[[str], float] | None = None
  pairs: Callable[[Split], Iterator[Pair]] | None = None

  def texts(self) -> Iterator[str]:
    """All there is to learn a vocabulary from, sources too."""
    if self.pairs is None:
      return self.documents('train')
    return itertools.chain.from_iterable(self.pairs('train'))


def open_source(name: str, holdout: float) -> Source:
  """The source that `name` says, with a share of `holdout` held out.

  A document belongs to a split by the hash of its text, so it never moves and
  its copies do not leak.
  """
  if not 0 <= holdout <= 1:
    raise UserError(f'data.holdout={holdout}: must be in [0, 1]')
  kind, _, rest = name.partition(':')
  if kind == 'toy_grammar':
    return _sentences(rest)
  if kind == 'toy_pairs':
    return _reversals(_sentences(rest))
  if name in BUNDLED:
    texts = lambda: (_text(row['text']) for row in bundled(name))
    return _by_hash(bundled_fingerprint(name), texts, holdout)
  if kind == 'tfds' and rest:
    return _by_hash(*_tfds(rest), holdout)
  if kind == 'files' and rest:
    return _by_hash(*_files(rest), holdout)
  if kind == 'pairs' and rest:
    return _paired(rest, holdout)
  known = [
    *BUNDLED,
    'toy_grammar',
    'toy_pairs',
    'tfds:NAME/SPLIT',
    'files:GLOB',
    'pairs:FILES',
  ]
  near = difflib.get_close_matches(name, known, 1)
  hint = f' (did you mean {near[0]}?)' if near else ''
  raise UserError(
    f'data.source={name!r} is unknown{hint}; there are ' + ', '.join(known)
  )


def _by_hash(
  fingerprint: str, texts: Callable[[], Iterator[str]], holdout: float
) -> Source:
  def documents(split: Split) -> Iterator[str]:
    for text in texts():
      if text and _is_heldout(text, holdout) == (split == 'heldout'):
        yield text

  return Source(f'{fingerprint}/{holdout}', documents)


def _is_heldout(text: str, holdout: float) -> bool:
  digest = hashlib.blake2b(
    text.encode('utf-8', 'surrogatepass'), digest_size=8
  ).digest()
  return int.from_bytes(digest, 'big') < holdout * 2**64


def _paired(spec: str, holdout: float) -> Source:
  """`pairs:` of files or of TFDS, held out by name or by hash of the source."""
  path, options = _options(spec, {'src', 'trg', 'sep', 'train', 'heldout'})
  is_named = '{split}' in path
  if path.startswith('tfds:'):
    told, read = _tfds_pairs(path.removeprefix('tfds:'), options)
  else:
    told = fingerprint(path, options)
    read = lambda split: read_pairs(path, options, split)

  def pairs(split: Split) -> Iterator[Pair]:
    if is_named:
      yield from read(split)
      return
    for pair in read('train'):
      if _is_heldout(pair[0], holdout) == (split == 'heldout'):
        yield pair

  documents = lambda split: (target for _, target in pairs(split))
  told = told if is_named else f'{told}/{holdout}'
  return Source(told, documents, pairs=pairs)


def _tfds_pairs(
  path: str, options: dict[str, str]
) -> tuple[str, Callable[[Split], Iterator[Pair]]]:
  """`NAME[:CONFIG]/SPLIT` with {split} -> fingerprint, a split's pairs."""
  sides = [options.get(side, side) for side in ('src', 'trg')]

  def open_side(split: Split, key: str) -> Any:
    return _tfds(f'{named_split(path, options, split)}?key={key}')

  prints = [open_side('train', key)[0] for key in sides]

  def read(split: Split) -> Iterator[Pair]:
    both = [open_side(split, key)[1]() for key in sides]
    yield from zip(*both)

  return '/'.join(['pairs', *prints, options.get('heldout', '')]), read


def _sentences(count: str) -> Source:
  """Splits have seeds of their own: a split by hash would change the law, as
  each sentence would occur in one of them only."""
  if count and not (count.isdecimal() and int(count)):
    raise UserError(
      f'data.source=toy_grammar:{count}: {count!r} is no number of sentences'
    )
  total = int(count) if count else _SENTENCES
  grammar = toy_grammar()

  def documents(split: Split) -> Iterator[str]:
    rng = np.random.default_rng(0 if split == 'train' else 1)
    for _ in range(total if split == 'train' else max(total // 10, 1)):
      yield grammar.sample(rng)[0]

  return Source(f'toy_grammar/1/{total}', documents, grammar.log_prob)


def _reversals(sentences: Source) -> Source:
  """What a network can only get right by reading its source."""

  def pairs(split: Split) -> Iterator[Pair]:
    for text in sentences.documents(split):
      yield text, ' '.join(reversed(text.split()))

  documents = lambda split: (target for _, target in pairs(split))
  return Source(f'toy_pairs/{sentences.fingerprint}', documents, pairs=pairs)


def _tfds(spec: str) -> tuple[str, Callable[[], Iterator[str]]]:
  """`NAME[:CONFIG]/SPLIT?key=text` -> fingerprint, texts."""
  path, options = _options(spec, {'key'})
  name, slash, split = path.partition('/')
  if not slash:
    raise UserError(
      f'data.source=tfds:{spec} names no split: tfds:{path}/train'
    )
  key = options.get('key', 'text')
  tfds = quiet_tfds()
  try:
    builder = tfds.builder(
      name.replace(':', '/', 1), try_gcs=False, file_format='array_record'
    )
    if not builder.is_prepared():
      # TFDS tells of its progress on stdout, which is for results.
      with contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare()
    rows = builder.as_data_source(split=split)
  except Exception as error:  # TFDS and its backends raise all kinds
    reason = str(error).strip().split('\n')[0] or type(error).__name__
    raise UserError(
      f'data.source=tfds:{spec} cannot be opened: {reason}'
    ) from None
  features = builder.info.features
  if key not in features:
    raise UserError(
      f'data.source=tfds:{spec}: no feature {key!r}; there are '
      + ', '.join(features)
    )
  fingerprint = f'tfds/{builder.info.full_name}/{split}/{key}'

  def texts() -> Iterator[str]:
    for row in rows:
      if not isinstance(row[key], bytes | str):
        raise UserError(
          f'data.source=tfds:{spec}: feature {key!r} is no text; the features '
          'are ' + ', '.join(features)
        )
      yield _text(row[key])

  return fingerprint, texts


def _files(spec: str) -> tuple[str, Callable[[], Iterator[str]]]:
  """`GLOB[?key=field&split=line]` -> fingerprint of the contents, texts."""
  pattern, options = _options(spec, {'key', 'split'})
  if options.get('split', 'line') not in ('line', 'blank'):
    raise UserError(
      f'data.source=files:{spec}: split={options["split"]!r}, but only '
      'split=line and split=blank are known'
    )
  found = glob.glob(str(Path(pattern).expanduser()), recursive=True)
  paths = sorted(path for path in found if not Path(path).is_dir())
  if not paths:
    raise UserError(f'data.source=files:{pattern} matches no file')
  digest = hashlib.sha256(json.dumps(sorted(options.items())).encode())
  for path in paths:
    if not path.endswith(('.txt', '.txt.gz', '.jsonl')):
      raise UserError(f'{path}: only .txt, .txt.gz and .jsonl are read')
    try:
      with open(path, 'rb') as file:
        digest.update(hashlib.file_digest(file, 'sha256').digest())
    except OSError as error:
      raise UserError(
        f'{path} cannot be read ({error.strerror}): mend or leave it out'
      ) from None

  def texts() -> Iterator[str]:
    for path in paths:
      yield from _read(path, options)

  return f'files/{digest.hexdigest()[:16]}', texts


def _read(path: str, options: dict[str, str]) -> Iterator[str]:
  try:
    yield from _parts(path, options)
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(f'{path} is no whole gzip file ({error})') from None


def _parts(path: str, options: dict[str, str]) -> Iterator[str]:
  opener: Any = gzip.open if path.endswith('.gz') else open
  if path.endswith('.jsonl'):
    key, offset = options.get('key', 'text'), 0
    with opener(path, 'rb') as file:
      for number, line in enumerate(file, 1):
        text = _decoded(line, path, offset)
        offset += len(line)
        if text.strip():
          yield _field(text, key, f'{path}:{number}')
    return
  with opener(path, 'rb') as file:
    if options.get('split') != 'line':
      text = _decoded(file.read(), path, 0)
      if options.get('split') != 'blank':
        yield text
        return
      parts = re.split(r'\n(?:[^\S\n]*\n)+', text)
      yield from (part.strip('\r\n') for part in parts if part.strip())
      return
    offset = 0
    for line in file:
      yield _decoded(line, path, offset).rstrip('\r\n')
      offset += len(line)


def _field(line: str, key: str, place: str) -> str:
  try:
    row = json.loads(line)
  except json.JSONDecodeError as error:
    raise UserError(f'{place}: not JSON ({error})') from None
  if not isinstance(row, dict) or not isinstance(row.get(key), str):
    fields = ', '.join(row) if isinstance(row, dict) else 'none'
    raise UserError(
      f'{place}: no text in the field {key!r}; there are {fields}: name one '
      'with ?key=FIELD'
    )
  # JSON can spell half a surrogate pair, which is no text: it becomes '?'.
  return row[key].encode('utf-8', 'replace').decode()


def _decoded(data: bytes, path: str, offset: int) -> str:
  try:
    return data.decode('utf-8')
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path}: byte {offset + error.start} (0x{data[error.start]:02x}) is not '
      'UTF-8; convert the file, as with iconv'
    ) from None


def _options(spec: str, known: set[str]) -> tuple[str, dict[str, str]]:
  """`path?a=b&c=d` -> path, options."""
  path, mark, query = spec.rpartition('?')
  if not mark or '=' not in query:  # a ? of a glob
    path, query = spec, ''
  options = dict(parse_qsl(query))
  for name in options:
    if name not in known:
      raise UserError(
        f'data.source: unknown option {name!r} in {spec!r}; there are '
        + ', '.join(sorted(known))
      )
  return path, options


def _text(value: Any) -> str:
  return value.decode('utf-8', 'replace') if isinstance(value, bytes) else value
