"""The bundled corpus `e2e`: attributes of restaurants and descriptions.

Novikova, Dušek & Rieser, "The E2E Dataset: New Challenges for End-to-End
Generation", SIGDIAL 2017 (arXiv:1706.09254), under CC BY-SA 4.0; the notice is
in `assets/E2E_NOTICE.txt`. The splits are the official ones: no set of
attributes occurs in two of them.

Attributes are words `key=value` in the order of `KEYS`. Most sets of attributes
have several descriptions:

  name=Blue_Spice type=pub area=riverside
      Blue Spice is a pub by the river.
"""

import functools
import gzip
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

Part = Literal['train', 'valid', 'test']
PARTS = get_args(Part)
KEYS = ('name', 'type', 'food', 'price', 'rating', 'area', 'family', 'near')
PATH = Path(__file__).parent / 'assets' / 'e2e.txt.gz'
NOTICE = PATH.with_name('E2E_NOTICE.txt')


def e2e_pairs(part: Part) -> Iterator[tuple[str, str]]:
  """Yields (attributes, description), ordered by attributes."""
  current, attributes = '', ''
  for line in _text().splitlines():
    if line.startswith('# '):
      current = line.removeprefix('# ')
    elif current != part:
      continue
    elif line.startswith('\t'):
      yield attributes, line[1:]
    else:
      attributes = line


def e2e_fingerprint() -> str:
  """Returns a string that identifies the contents of the corpus."""
  return f'e2e/{hashlib.sha256(_text().encode()).hexdigest()[:16]}'


@functools.cache
def _text() -> str:
  return gzip.decompress(PATH.read_bytes()).decode()
