"""A user's own text files as a source."""

import dataclasses
import os
from typing import Literal

from textdiffusion.core.types import UserError


@dataclasses.dataclass(frozen=True)
class Files:
  """Text files; the same as `data.source=files:PATTERN?...`.

    Files('books/*.txt')                      a file is a document
    Files('lines.txt', split='line')          a line is
    Files('stories.txt', split='blank')       what stands between blank lines is
    Files('records/*.jsonl', key='body')      a line is, its text in `body`

  Attributes:
    pattern: a path or a glob of .txt, .txt.gz and .jsonl files.
    split: what a document of a .txt file is.
    key: the field of a .jsonl line that holds its text; `text` if None.
  """

  pattern: str | os.PathLike
  split: Literal['file', 'line', 'blank'] = 'file'
  key: str | None = None

  def __post_init__(self) -> None:
    if self.split not in ('file', 'line', 'blank'):
      raise UserError(f'split={self.split!r}: must be file, line or blank')
    if self.key == '':
      raise UserError("key='': name the field of a line that holds its text")

  def __str__(self) -> str:
    """The value of `data.source`."""
    options = [] if self.split == 'file' else [f'split={self.split}']
    options += [] if self.key is None else [f'key={self.key}']
    ending = f'?{"&".join(options)}' if options else ''
    return f'files:{os.fspath(self.pattern)}{ending}'
