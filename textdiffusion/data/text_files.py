"""Reads the user's text files: byte-order marks, line ends, gzip, JSON lines.

All text files that the user names are read by this module.
"""

import codecs
import contextlib
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from textdiffusion.core.types import UserError

# Part of the key of every cache that is built from files. Raise it with any
# change of the texts that are read from the same bytes.
VERSION = 2


def read_text(path: str) -> str:
  """Returns the whole text of a file without its byte-order mark.

  Raises:
    UserError: the file cannot be read or is not UTF-8.
  """
  with _errors(path), _open(path) as file:
    return _decode(file.read(), path, 0)


def read_lines(path: str, aligned: bool = False) -> Iterator[str]:
  """Yields lines without their ends, which may be LF, CRLF or CR.

  Args:
    path: the file.
    aligned: whether line i belongs to line i of another file. Then a CR inside
      a line is text, because other tools count lines that way, unless the file
      has no LF at all.

  Raises:
    UserError: the file cannot be read or is not UTF-8.
  """
  offset = 0
  with _errors(path), _open(path) as file:
    for line in file:
      text = _decode(line, path, offset)
      is_without_lf = not offset and not line.endswith(b'\n')
      offset += len(line)
      if aligned and not is_without_lf:
        yield text.rstrip('\r\n')
      else:
        yield from text.removesuffix('\n').removesuffix('\r').split('\r')


def parse_json(line: str, place: str) -> Any:
  """Parses a line of JSON.

  Args:
    line: the text.
    place: file and line number, for messages.

  Raises:
    UserError: the line is not JSON, or Python cannot represent the value.
  """
  try:
    return json.loads(line)
  except RecursionError:
    raise UserError(
      f'{place}: the JSON is nested too deep to be read; leave the line out'
    ) from None
  except ValueError as error:  # Raised by numbers over 4,300 digits as well.
    raise UserError(f'{place}: not JSON ({error})') from None


def text_field(row: object, key: str, place: str, option: str) -> str:
  """Returns the text in a field of a JSON object.

  Args:
    row: a value that `parse_json` returned.
    key: name of the field.
    place: file and line number, for messages.
    option: the option of `data.source` that names the field, for messages.

  Raises:
    UserError: the field is missing, or is not a string.
  """
  if not isinstance(row, dict) or not isinstance(row.get(key), str):
    fields = ', '.join(row) if isinstance(row, dict) else 'none'
    raise UserError(
      f'{place}: no text in the field {key!r}; there are {fields}: name one '
      f'with ?{option}=FIELD'
    )
  # JSON can contain half a surrogate pair, which is not text: it becomes '?'.
  return row[key].encode('utf-8', 'replace').decode()


def read_documents(path: str, options: dict[str, str]) -> Iterator[str]:
  """Yields the documents of a .txt, .txt.gz or .jsonl file.

  Args:
    path: the file.
    options: options of `data.source`: `key`, the field of a .jsonl line that
      holds its text, and `split`, how a .txt file is divided into documents.

  Raises:
    UserError: the file cannot be read.
  """
  if path.endswith('.jsonl'):
    key = options.get('key', 'text')
    for number, line in enumerate(read_lines(path), 1):
      if line.strip():
        place = f'{path}:{number}'
        yield text_field(parse_json(line, place), key, place, 'key')
    return
  match options.get('split'):
    case 'line':
      yield from read_lines(path)
    case 'blank':
      text = '\n'.join(read_lines(path))
      parts = re.split(r'\n(?:[^\S\n]*\n)+', text)
      yield from (part.strip('\n') for part in parts if part.strip())
    case _:
      yield read_text(path)


def content_digest(path: str) -> bytes:
  """Returns the SHA-256 digest of a file's bytes.

  Raises:
    UserError: the file cannot be read.
  """
  with _errors(path), open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').digest()


def split_options(spec: str, known: set[str]) -> tuple[str, dict[str, str]]:
  """Splits `path?a=b&c=d` into the path and a dict of options.

  Raises:
    UserError: an option is unknown, given twice or has no value.
  """
  path, mark, query = spec.rpartition('?')
  if not mark or '=' not in query:  # The ? is part of a glob.
    path, query = spec, ''
  options: dict[str, str] = {}
  for name, value in parse_qsl(query, keep_blank_values=True):
    if name not in known:
      raise UserError(
        f'data.source: unknown option {name!r} in {spec!r}; there are '
        + ', '.join(sorted(known))
      )
    if not value:
      raise UserError(
        f'data.source: the option {name!r} in {spec!r} has no value: write '
        f'{name}=VALUE or leave it out'
      )
    if name in options:
      raise UserError(
        f'data.source: the option {name!r} in {spec!r} is given twice: leave '
        'one of them out'
      )
    options[name] = value
  return path, options


def refuse_options(options: dict[str, str], names: set[str], why: str) -> None:
  """Raises UserError if an option that has no effect is given.

  Args:
    options: the options that the user gave.
    names: the options that have no effect.
    why: the reason, for the message.
  """
  for name in sorted(names & options.keys()):
    raise UserError(
      f'data.source: the option {name}={options[name]} has no effect: {why}; '
      'leave it out'
    )


def _open(path: str) -> io.BufferedIOBase:
  return gzip.open(path) if path.endswith('.gz') else open(path, 'rb')


@contextlib.contextmanager
def _errors(path: str) -> Generator[None]:
  """Turns errors of reading a file into a UserError."""
  try:
    yield
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(f'{path} is no whole gzip file ({error})') from None
  except OSError as error:
    raise UserError(
      f'{path} cannot be read ({error.strerror or error}): mend or leave it out'
    ) from None


def _decode(data: bytes, path: str, offset: int) -> str:
  """Decodes bytes that were read from `offset` on; the message names both.

  Raises:
    UserError: they are no UTF-8.
  """
  if not offset and data.startswith(codecs.BOM_UTF8):
    offset = len(codecs.BOM_UTF8)
    data = data[offset:]
  try:
    return data.decode('utf-8')
  except UnicodeDecodeError as error:
    place = offset + error.start
    raise UserError(
      f'{path}: byte {place} (0x{data[error.start]:02x}) is not UTF-8; convert '
      'the file, as with iconv'
    ) from None


def file_format(path: str) -> str:
  """Returns the format that a file's name implies, such as `jsonl.gz`."""
  name = Path(path).name
  kind = 'jsonl' if '.jsonl' in name else 'txt'
  return f'{kind}.gz' if name.endswith('.gz') else kind
