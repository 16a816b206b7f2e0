"""Pairs of a source and a target text, where sequences become sequences.

pairs:FILES.jsonl[?src=FIELD&trg=FIELD]   an object a line, src and trg
pairs:SOURCES,TARGETS                     two files, a line of one to a line of
                                          the other
pairs:FILES?sep=||                        source and target in one line; `tab`
                                          is a tab
pairs:tfds:NAME[:CONFIG]/SPLIT?src=FIELD&trg=FIELD

FILES is a pattern, .gz too. {split} in a name stands for `train` while training
and `valid` of what is held out, or what &train= and &heldout= say; without it
pairs are held out by the hash of their source, so that a source with several
targets is never on both sides.
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
  """Pairs of files, those with an empty side left out. UserError names the
  file and line of what cannot be read."""
  for pair in _all(path, options, split):
    source, target = (text.strip() for text in pair)
    if source and target:
      yield source, target


def fingerprint(path: str, options: dict[str, str]) -> str:
  """Changes with the contents of the files of both splits and with how they
  are read, not with where they are."""
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
  """`path` with its {split} filled in."""
  usual = {'train': 'train', 'heldout': 'valid'}
  return path.replace('{split}', options.get(split, usual[split]))


def _all(path: str, options: dict[str, str], split: Split) -> Iterator[Pair]:
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
  wanted = str(expand(named_split(pattern, options, split)))
  found = [
    name
    for name in sorted(glob.glob(wanted, recursive=True))
    if not Path(name).is_dir()
  ]
  if not found:
    of_split = f' ({split})' if '{split}' in pattern else ''
    raise UserError(
      f'data.source=pairs:{pattern} matches no file{of_split}: {wanted}'
    )
  return found


def _is_jsonl(name: str) -> bool:
  return file_format(name).startswith('jsonl')


def _aligned(sources: list[str], targets: list[str]) -> Iterator[Pair]:
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
  row = parse_json(line, place)
  source, target = (
    text_field(row, options.get(side, side), place, side)
    for side in ('src', 'trg')
  )
  return source, target


def _divided(line: str, options: dict[str, str], place: str) -> Pair:
  sep = options.get('sep', '')
  sep = '\t' if sep == 'tab' else sep
  if not sep:
    raise UserError(
      f'{place}: where does the source end? Name what divides a line with '
      '?sep=, such as ?sep=|| or ?sep=tab'
    )
  source, found, target = line.partition(sep)
  if not found:
    raise UserError(f'{place}: no {sep!r} in the line {line.strip()[:60]!r}')
  return source, target
