"""Sources of documents. One string names a source.

python_docs, python_source        bundled corpora, read from the running Python
e2e[?heldout=test]                bundled descriptions of restaurants (see
                                  `e2e`): pairs of attributes and a description,
                                  or the descriptions as documents; `valid` or
                                  `test` is held out
toy_grammar[:COUNT]               sentences drawn from a known distribution
tfds:NAME[:CONFIG]/SPLIT?key=text any TFDS dataset with a text feature; if SPLIT
                                  is {split}, the dataset's own split `valid`,
                                  or that of ?heldout=test, is held out
files:GLOB[?key=text]             .txt and .txt.gz files, each a document; with
                                  ?split=line each line is a document, with
                                  ?split=blank blank lines separate documents
                                  (whose lines end in LF). .jsonl files: each
                                  line is a document, its text in field `key`
pairs:...                         pairs, see `pairs`; the targets are the
                                  documents
toy_pairs[:COUNT]                 pairs of a sentence of the grammar and its
                                  words in reverse order
"""

import contextlib
import dataclasses
import difflib
import glob
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError
from textdiffusion.data.corpora import (
  BUNDLED,
  bundled,
  bundled_fingerprint,
  library_digest,
  quiet_tfds,
)
from textdiffusion.data.e2e import PARTS, Part, e2e_fingerprint, e2e_pairs
from textdiffusion.data.grammar import toy_grammar
from textdiffusion.data.pairs import (
  Pair,
  fingerprint,
  named_split,
  read_pairs,
)
from textdiffusion.data.text_files import (
  VERSION,
  content_digest,
  file_format,
  read_documents,
  refuse_options,
  split_options,
)

Split = Literal['train', 'heldout']
_SENTENCES = 50_000


@dataclasses.dataclass(frozen=True)
class Source:
  """Texts in two splits.

  Attributes:
    fingerprint: identifies the texts; a run is resumed only if it is equal.
    documents: yields the documents of one split.
    log_prob: returns the log-probability in nats of a document under the
      distribution it was drawn from; None if that is unknown.
    pairs: yields (source, target) of one split, where the targets are the
      documents; None without sources.
    reading: what else the texts depend on, such as the version of the reader.
      It is part of cache keys but not of fingerprints, which must not change
      with versions and machines.
  """

  fingerprint: str
  documents: Callable[[Split], Iterator[str]]
  log_prob: Callable[[str], float] | None = None
  pairs: Callable[[Split], Iterator[Pair]] | None = None
  reading: str = ''

  def texts(self) -> Iterator[str]:
    """Yields all training texts, sources included, to learn a vocabulary."""
    if self.pairs is None:
      return self.documents('train')
    return itertools.chain.from_iterable(self.pairs('train'))


class _Texts(NamedTuple):
  """All texts of a source, not yet divided into training and held-out texts.

  Fields are those of `Source`.
  """

  fingerprint: str
  read: Callable[[], Iterator[str]]
  reading: str


def open_source(name: str, holdout: float) -> Source:
  """Opens a source.

  The split of a document depends on the hash of its text, so that it never
  changes and copies of a document are in the same split.

  Args:
    name: the source, see the docstring of this module.
    holdout: share of the documents that is held out.

  Raises:
    UserError: the source is unknown or cannot be opened.
  """
  if not 0 <= holdout <= 1:
    raise UserError(f'data.holdout={holdout}: must be in [0, 1]')
  kind, _, rest = name.partition(':')
  if kind == 'toy_grammar':
    return _sentences(rest)
  if kind == 'toy_pairs':
    return _reversals(_sentences(rest))
  if re.fullmatch(r'e2e(\?.*)?', name):
    return _restaurants(name)
  if name in BUNDLED:
    texts = lambda: (_text(row['text']) for row in bundled(name))
    fingerprint = bundled_fingerprint(name)
    return _by_hash(_Texts(fingerprint, texts, library_digest()), holdout)
  if kind == 'tfds' and '{split}' in rest:
    return _own_splits(rest)
  if kind == 'tfds' and rest:
    return _by_hash(_tfds(rest), holdout)
  if kind == 'files' and rest:
    return _by_hash(_files(rest), holdout)
  if kind == 'pairs' and rest:
    return _paired(rest, holdout)
  known = [
    *BUNDLED,
    'e2e',
    'toy_grammar',
    'toy_pairs',
    'tfds:NAME/SPLIT',
    'files:GLOB',
    'pairs:FILES',
  ]
  near = difflib.get_close_matches(name, known, 1)
  path = name.partition('?')[0]
  if glob.glob(str(expand(path))):
    near = [f'files:{name}']
  hint = f' (did you mean {near[0]}?)' if near else ''
  raise UserError(
    f'data.source={name!r} is unknown{hint}; there are ' + ', '.join(known)
  )


def has_own_splits(name: str) -> bool:
  """Returns whether a source has its own held-out split.

  Such sources ignore `data.holdout`.
  """
  kind = re.split('[:?]', name)[0]
  return kind in ('toy_grammar', 'toy_pairs', 'e2e') or '{split}' in name


def _by_hash(texts: _Texts, holdout: float) -> Source:
  """Splits texts by their hashes."""

  def documents(split: Split) -> Iterator[str]:
    for text in texts.read():
      if text and _is_heldout(text, holdout) == (split == 'heldout'):
        yield text

  return Source(
    f'{texts.fingerprint}/{holdout}', documents, reading=texts.reading
  )


def _is_heldout(text: str, holdout: float) -> bool:
  digest = hashlib.blake2b(
    text.encode('utf-8', 'surrogatepass'), digest_size=8
  ).digest()
  return int.from_bytes(digest, 'big') < holdout * 2**64


def _paired(spec: str, holdout: float) -> Source:
  """Opens pairs of files or of TFDS, split by name or by hash of the source."""
  path, options = split_options(spec, {'src', 'trg', 'sep', 'train', 'heldout'})
  is_named = '{split}' in path
  if not is_named:
    why = 'no {split} in the name'
    refuse_options(options, {'train', 'heldout'}, why)
  if path.startswith('tfds:'):
    refuse_options(options, {'sep'}, 'TFDS has fields')
    print_, read, reading = _tfds_pairs(path.removeprefix('tfds:'), options)
  else:
    print_, reading = fingerprint(path, options), f'{VERSION}'
    read = lambda split: read_pairs(path, options, split)

  def pairs(split: Split) -> Iterator[Pair]:
    if is_named:
      yield from read(split)
      return
    for pair in read('train'):
      if _is_heldout(pair[0], holdout) == (split == 'heldout'):
        yield pair

  documents = lambda split: (target for _, target in pairs(split))
  print_ = print_ if is_named else f'{print_}/{holdout}'
  return Source(print_, documents, pairs=pairs, reading=reading)


def _tfds_pairs(
  path: str, options: dict[str, str]
) -> tuple[str, Callable[[Split], Iterator[Pair]], str]:
  """Opens pairs of the TFDS dataset `NAME[:CONFIG]/SPLIT`.

  Returns the fingerprint, a function that yields the pairs of a split, and
  `Source.reading`.
  """
  sides = [options.get(side, side) for side in ('src', 'trg')]

  def open_side(split: Split, key: str) -> _Texts:
    return _tfds(f'{named_split(path, options, split)}?key={key}')

  opened = [open_side('train', key) for key in sides]
  prints = [texts.fingerprint for texts in opened]

  def read(split: Split) -> Iterator[Pair]:
    yield from zip(*(open_side(split, key).read() for key in sides))

  fingerprint = '/'.join(['pairs', *prints, options.get('heldout', '')])
  return fingerprint, read, opened[0].reading


def _sentences(count: str) -> Source:
  """Returns a source of `count` sentences of the toy grammar.

  Each split has its own seed. A split by hash would change the distribution,
  because each sentence would occur in one split only.
  """
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

  # A change of the rules or of NumPy's random generator changes the first
  # sentences, and so the digest.
  first = '\n'.join(itertools.islice(documents('train'), 20))
  digest = hashlib.sha256(f'{grammar.rules}\n{first}'.encode()).hexdigest()
  fingerprint = f'toy_grammar/1/{total}'
  return Source(fingerprint, documents, grammar.log_prob, reading=digest[:16])


def _reversals(sentences: Source) -> Source:
  """Returns pairs of a sentence and its reversal.

  A network can predict the target only by using its source.
  """

  def pairs(split: Split) -> Iterator[Pair]:
    for text in sentences.documents(split):
      yield text, ' '.join(reversed(text.split()))

  documents = lambda split: (target for _, target in pairs(split))
  fingerprint = f'toy_pairs/{sentences.fingerprint}'
  return Source(fingerprint, documents, None, pairs, sentences.reading)


def _restaurants(spec: str) -> Source:
  """Opens `e2e[?heldout=PART]` with its official splits."""
  _, options = split_options(spec, {'heldout'})
  heldout: Any = options.get('heldout', 'valid')
  if heldout not in PARTS[1:]:
    raise UserError(
      f'data.source={spec}: heldout={heldout} is no held-out part of e2e: '
      'write heldout=valid or heldout=test'
    )
  parts: dict[Split, Part] = {'train': 'train', 'heldout': heldout}
  pairs = lambda split: e2e_pairs(parts[split])
  documents = lambda split: (text for _, text in pairs(split))
  return Source(f'{e2e_fingerprint()}/{heldout}', documents, pairs=pairs)


def _own_splits(spec: str) -> Source:
  """Opens `NAME[:CONFIG]/{split}`: the dataset's own splits."""
  path, options = split_options(spec, {'key', 'train', 'heldout'})
  key = options.get('key', 'text')
  opened = {
    split: _tfds(f'{named_split(path, options, split)}?key={key}')
    for split in ('train', 'heldout')
  }
  return Source(
    '/'.join(texts.fingerprint for texts in opened.values()),
    lambda split: filter(None, opened[split].read()),
    reading='/'.join(texts.reading for texts in opened.values()),
  )


def _tfds(spec: str) -> _Texts:
  """Opens `NAME[:CONFIG]/SPLIT?key=text`, and builds the dataset if needed."""
  path, options = split_options(spec, {'key'})
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
      # TFDS prints its progress to stdout, which is reserved for results.
      with contextlib.redirect_stdout(sys.stderr):
        builder.download_and_prepare()
    rows = builder.as_data_source(split=split)
  except Exception as error:  # TFDS and its backends raise errors of any type.
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

  return _Texts(fingerprint, texts, _built_files(builder.data_path))


def _built_files(folder: str | Path) -> str:
  """Returns a hash that changes when a dataset is built again.

  It is computed from names, sizes and times of the files, since their contents
  may be too large to read.
  """
  stats = [
    (path.name, (stat := path.stat()).st_size, stat.st_mtime_ns)
    for path in sorted(Path(folder).iterdir())
    if path.is_file()
  ]
  return hashlib.sha256(repr((str(folder), stats)).encode()).hexdigest()[:16]


def _files(spec: str) -> _Texts:
  """Opens the files of `GLOB[?key=field&split=line]`."""
  pattern, options = split_options(spec, {'key', 'split'})
  if options.get('split', 'line') not in ('line', 'blank'):
    raise UserError(
      f'data.source=files:{spec}: split={options["split"]!r}, but only '
      'split=line and split=blank are known'
    )
  found = glob.glob(str(expand(pattern)), recursive=True)
  paths = sorted(path for path in found if not Path(path).is_dir())
  if not paths:
    raise UserError(f'data.source=files:{pattern} matches no file')
  for path in paths:
    if not path.endswith(('.txt', '.txt.gz', '.jsonl')):
      raise UserError(f'{path}: only .txt, .txt.gz and .jsonl are read')
  is_jsonl = [path.endswith('.jsonl') for path in paths]
  if not any(is_jsonl):
    refuse_options(options, {'key'}, f'{pattern} matches no .jsonl file')
  if all(is_jsonl):
    refuse_options(options, {'split'}, 'a line of .jsonl is a document')
  digest = hashlib.sha256(json.dumps(sorted(options.items())).encode())
  for path in paths:
    digest.update(content_digest(path))
    kind = file_format(path)
    if kind != 'txt':  # Fingerprints of older runs stay valid.
      digest.update(kind.encode())

  def texts() -> Iterator[str]:
    for path in paths:
      yield from read_documents(path, options)

  return _Texts(f'files/{digest.hexdigest()[:16]}', texts, f'{VERSION}')


def _text(value: str | bytes) -> str:
  return value.decode('utf-8', 'replace') if isinstance(value, bytes) else value
