"""Pairs of a source and a target text, for sequence-to-sequence methods.

pairs:FILES.jsonl[?src=FIELD&trg=FIELD]   a JSON object per line, with fields
                                          `src` and `trg` by default
pairs:SOURCES,TARGETS                     two files; line i of one belongs to
                                          line i of the other
pairs:FILES?sep=||                        source and target in one line,
                                          separated by `||`; `tab` is a tab
pairs:tfds:NAME[:CONFIG]/SPLIT?src=FIELD&trg=FIELD

FILES is a glob pattern; .gz files can be read too. {split} in a name is
replaced by `train` for training and by `valid` for held-out data, or by the
values of &train= and &heldout=. Without {split}, pairs are held out by the hash
of their source, so that all targets of a source are in the same split.
"""

import glob
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError
from textdiffusion.data.text_files import (
  content_digest,
  file_format,
  parse_json,
  read_lines,
  refuse_options,
  text_field,
)

Pair = tuple[str, str]
Split = Literal['train', 'heldout']


def read_pairs(
  path: str, options: dict[str, str], split: Split
) -> Iterator[Pair]:
  """Yields the pairs of files, without those that have an empty side.

  Args:
    path: the pattern, or the two patterns, after `pairs:`.
    options: options of `data.source`.
    split: the split.

  Raises:
    UserError: a line cannot be read; the message has its file and line number.
  """
  for pair in _all(path, options, split):
    source, target = (text.strip() for text in pair)
    if source and target:
      yield source, target


def fingerprint(path: str, options: dict[str, str]) -> str:
  """Returns a hash of the contents of the files of both splits.

  It depends on the options that change how files are read, but not on the
  paths of the files.
  """
  usual: tuple[Split, Split] = ('train', 'heldout')
  splits = usual if '{split}' in path else usual[:1]
  reading = {k: v for k, v in sorted(options.items()) if k not in usual}
  files = [
    [
      [
        (file_format(name), content_digest(name).hex())
        for name in _files(part, options, split)
      ]
      for part in path.split(',')
    ]
    for split in splits
  ]
  digest = hashlib.sha256(json.dumps([reading, files]).encode())
  return f'pairs/{digest.hexdigest()[:16]}'


def named_split(path: str, options: dict[str, str], split: Split) -> str:
  """Replaces {split} in a path by the name of the split.

  Args:
    path: the path or pattern.
    options: options of `data.source`, which may name the splits.
    split: the split.
  """
  usual = {'train': 'train', 'heldout': 'valid'}
  return path.replace('{split}', options.get(split, usual[split]))


def _all(path: str, options: dict[str, str], split: Split) -> Iterator[Pair]:
  """Yields all pairs, including those with an empty side."""
  parts = path.split(',')
  if len(parts) > 2:
    raise UserError(
      f'data.source=pairs:{path} names {len(parts)} patterns: one file of '
      'pairs, or SOURCES,TARGETS'
    )
  if len(parts) == 2:
    why = 'the lines of two files are whole texts'
    refuse_options(options, {'src', 'trg', 'sep'}, why)
    yield from _aligned(*(_files(part, options, split) for part in parts))
    return
  names = _files(path, options, split)
  is_jsonl = [_is_jsonl(name) for name in names]
  if all(is_jsonl):
    refuse_options(options, {'sep'}, 'a line of .jsonl has fields')
  if not any(is_jsonl):
    refuse_options(options, {'src', 'trg'}, 'only lines of .jsonl have fields')
  for name in names:
    for number, line in enumerate(read_lines(name, aligned=True), 1):
      if not line.strip():
        continue
      if _is_jsonl(name):
        yield _fields(line, options, f'{name}:{number}')
      else:
        yield _divided(line, options, f'{name}:{number}')


def _files(pattern: str, options: dict[str, str], split: Split) -> list[str]:
  """Returns the sorted files that a pattern matches."""
  wanted = str(expand(named_split(pattern, options, split)))
  found = [
    name
    for name in sorted(glob.glob(wanted, recursive=True))
    if not Path(name).is_dir()
  ]
  if not found:
    which = f' ({split})' if '{split}' in pattern else ''
    raise UserError(
      f'data.source=pairs:{pattern} matches no file{which}: {wanted}'
    )
  return found


def _is_jsonl(name: str) -> bool:
  return file_format(name).startswith('jsonl')


def _aligned(sources: list[str], targets: list[str]) -> Iterator[Pair]:
  """Yields line i of a source file with line i of its target file."""
  if len(sources) != len(targets):
    raise UserError(
      f'{len(sources)} files of sources, {sources[0]} ..., but {len(targets)} '
      f'of targets, {targets[0]} ...: each needs its own'
    )
  missing = object()
  for source, target in zip(sources, targets):
    both = itertools.zip_longest(
      read_lines(source, aligned=True),
      read_lines(target, aligned=True),
      fillvalue=missing,
    )
    for number, (one, other) in enumerate(both, 1):
      if not isinstance(one, str) or not isinstance(other, str):
        longer, shorter = (
          (source, target) if other is missing else (target, source)
        )
        raise UserError(
          f'{shorter} ends after {number - 1} lines and {longer} goes on: a '
          'line of one belongs to a line of the other'
        )
      yield one, other


def _fields(line: str, options: dict[str, str], place: str) -> Pair:
  """Reads a pair from two fields of a line of JSON."""
  row = parse_json(line, place)
  source, target = (
    text_field(row, options.get(side, side), place, side)
    for side in ('src', 'trg')
  )
  return source, target


def _divided(line: str, options: dict[str, str], place: str) -> Pair:
  """Splits a line into source and target at the separator."""
  sep = options.get('sep', '')
  sep = '\t' if sep == 'tab' else sep
  if not sep:
    raise UserError(
      f'{place}: no separator of source and target: name it with ?sep=, '
      'such as ?sep=|| or ?sep=tab'
    )
  source, found, target = line.partition(sep)
  if not found:
    raise UserError(f'{place}: no {sep!r} in the line {line.strip()[:60]!r}')
  return source, target
