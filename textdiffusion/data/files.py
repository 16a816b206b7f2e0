"""The user's own text files as a data source."""

import dataclasses
import os
from typing import Literal

from textdiffusion.core.types import UserError


@dataclasses.dataclass(frozen=True)
class Files:
  """Text files as a source; equal to `data.source=files:PATTERN?...`.

    Files('books/*.txt')                    each file is a document
    Files('lines.txt', split='line')        each line is a document
    Files('stories.txt', split='blank')     blank lines separate documents
    Files('records/*.jsonl', key='body')    each line is a document, with its
                                            text in the field `body`

  Attributes:
    pattern: path or glob of .txt, .txt.gz and .jsonl files.
    split: how a .txt file is divided into documents: `file` (one document),
      `line` (a document per line) or `blank` (separated by blank lines).
    key: field of a .jsonl line that holds the text; `text` if None.
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
    """Returns the value of `data.source`."""
    options = [] if self.split == 'file' else [f'split={self.split}']
    options += [] if self.key is None else [f'key={self.key}']
    ending = f'?{"&".join(options)}' if options else ''
    return f'files:{os.fspath(self.pattern)}{ending}'
