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
import gzip
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError

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
  """Changes with the contents of the files of both splits."""
  digest = hashlib.sha256(json.dumps([path, sorted(options.items())]).encode())
  both: tuple[Split, Split] = ('train', 'heldout')
  for split in both if '{split}' in path else both[:1]:
    for part in path.split(','):
      for name in _files(part, options, split):
        with open(name, 'rb') as file:
          digest.update(hashlib.file_digest(file, 'sha256').digest())
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
    yield from _aligned(*(_files(part, options, split) for part in parts))
    return
  for name in _files(path, options, split):
    for number, line in enumerate(_lines(name), 1):
      if not line.strip():
        continue
      if '.jsonl' in Path(name).name:
        yield _fields(line, options, f'{name}:{number}')
      else:
        yield _divided(line, options, f'{name}:{number}')


def _files(pattern: str, options: dict[str, str], split: Split) -> list[str]:
  wanted = str(expand(named_split(pattern, options, split)))
  found = sorted(glob.glob(wanted, recursive=True))
  if not found:
    told = f' ({split})' if '{split}' in pattern else ''
    raise UserError(
      f'data.source=pairs:{pattern} matches no file{told}: {wanted}'
    )
  return found


def _aligned(sources: list[str], targets: list[str]) -> Iterator[Pair]:
  if len(sources) != len(targets):
    raise UserError(
      f'{len(sources)} files of sources, {sources[0]} ..., but {len(targets)} '
      f'of targets, {targets[0]} ...: each needs its own'
    )
  missing = object()
  for source, target in zip(sources, targets):
    both = itertools.zip_longest(
      _lines(source), _lines(target), fillvalue=missing
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
  try:
    row = json.loads(line)
  except json.JSONDecodeError as error:
    raise UserError(f'{place}: not JSON ({error})') from None
  values = []
  for side in ('src', 'trg'):
    key = options.get(side, side)
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str):
      fields = ', '.join(row) if isinstance(row, dict) else 'none'
      raise UserError(
        f'{place}: no text in the field {key!r}; there are {fields}: name one '
        f'with ?{side}=FIELD'
      )
    values.append(value.encode('utf-8', 'replace').decode())
  return values[0], values[1]


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


def _lines(path: str) -> Iterator[str]:
  opener: Any = gzip.open if path.endswith('.gz') else open
  try:
    with opener(path, 'rt', encoding='utf-8', newline='\n') as file:
      yield from (line.rstrip('\r\n') for line in file)
  except UnicodeDecodeError as error:
    raise UserError(
      f'{path}: byte 0x{error.object[error.start]:02x} is not UTF-8; convert '
      'the file, as with iconv'
    ) from None
  except (OSError, EOFError) as error:
    raise UserError(
      f'{path} cannot be read ({error}): mend or leave it out'
    ) from None
