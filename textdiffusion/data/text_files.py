"""Text files as users have them: byte-order marks, line ends, gzip, JSON lines.

Every text file that the user names is read here.
"""

import codecs
import contextlib
import gzip
import hashlib
import json
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from textdiffusion.core.types import UserError

# Part of the key of every cache that is built from files: raise it with any
# change of the texts that the same bytes give.
VERSION = 2


def read_text(path: str) -> str:
  """The whole file, to the letter, without its byte-order mark.

  Raises:
    UserError: the file cannot be read or is not UTF-8.
  """
  with _errors(path), _open(path) as file:
    return _decode(file.read(), path, 0)


def read_lines(path: str, aligned: bool = False) -> Iterator[str]:
  """Lines without their ends, LF, CRLF or CR.

  Args:
    path: the file.
    aligned: whether its lines belong to those of another file. Then a CR
      inside a line is text, as other tools count it, unless the file has no
      LF at all.

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
  """The value of a line of JSON.

  Args:
    line: the text.
    place: file and line number, for messages.

  Raises:
    UserError: it is not JSON, or Python cannot hold it.
  """
  try:
    return json.loads(line)
  except RecursionError:
    raise UserError(
      f'{place}: the JSON is nested too deep to be read; leave the line out'
    ) from None
  except ValueError as error:  # also a number of more than 4,300 digits
    raise UserError(f'{place}: not JSON ({error})') from None


def text_field(row: Any, key: str, place: str, option: str) -> str:
  """The text in a field of a JSON object.

  Args:
    row: a value that `parse_json` returned.
    key: the name of the field.
    place: file and line number, for messages.
    option: the option of `data.source` that names the field.

  Raises:
    UserError: there is no text in that field.
  """
  if not isinstance(row, dict) or not isinstance(row.get(key), str):
    fields = ', '.join(row) if isinstance(row, dict) else 'none'
    raise UserError(
      f'{place}: no text in the field {key!r}; there are {fields}: name one '
      f'with ?{option}=FIELD'
    )
  # JSON can spell half a surrogate pair, which is no text: it becomes '?'.
  return row[key].encode('utf-8', 'replace').decode()


def content_digest(path: str) -> bytes:
  """SHA-256 of a file's bytes. Raises UserError where it cannot be read."""
  with _errors(path), open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').digest()


def split_options(spec: str, known: set[str]) -> tuple[str, dict[str, str]]:
  """`path?a=b&c=d` -> path, options.

  Raises:
    UserError: an option is unknown, given twice or without a value.
  """
  path, mark, query = spec.rpartition('?')
  if not mark or '=' not in query:  # a ? of a glob
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
  """Raises UserError for the first of `names` among the options.

  Args:
    options: what the user gave.
    names: the options that would have no effect.
    why: the reason, for the message.
  """
  for name in sorted(names & options.keys()):
    raise UserError(
      f'data.source: the option {name}={options[name]} has no effect: {why}; '
      'leave it out'
    )


def _open(path: str) -> Any:
  return gzip.open(path) if path.endswith('.gz') else open(path, 'rb')


@contextlib.contextmanager
def _errors(path: str) -> Generator[None]:
  """Turns what reading a file raises into a UserError."""
  try:
    yield
  except (gzip.BadGzipFile, EOFError, zlib.error) as error:
    raise UserError(f'{path} is no whole gzip file ({error})') from None
  except OSError as error:
    raise UserError(
      f'{path} cannot be read ({error.strerror or error}): mend or leave it out'
    ) from None


def _decode(data: bytes, path: str, offset: int) -> str:
  """UTF-8 of the part of a file that starts at byte `offset`."""
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
  """The part of a file's name that decides how its bytes are read."""
  name = Path(path).name
  kind = 'jsonl' if '.jsonl' in name else 'txt'
  return f'{kind}.gz' if name.endswith('.gz') else kind
