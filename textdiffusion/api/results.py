"""What a model gives back: texts, answers and scores that print themselves."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textdiffusion.core.types import UserError
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.samplers.base import Canvas, Frame, Samples
from textdiffusion.viz.samples import traces_of
from textdiffusion.viz.trace import Trace, show, write_trace


@dataclasses.dataclass(frozen=True, repr=False)
class Generated:
  """Samples of one canvas. Prints as text; plays its trace in a notebook.

  Attributes:
    texts: [B] strings.
    samples: ids, log-probabilities, steps, calls and perhaps frames; NumPy.
    canvas: what was given, and where it stands in the samples.
    tokenizer: of the model.
    settings: what the page of a trace says of the samples.
    title: names them there.
  """

  texts: list[str]
  samples: Samples
  canvas: Canvas
  tokenizer: Tokenizer
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  title: str = 'sample'

  @property
  def ids(self) -> np.ndarray:
    """[B, L] tokens."""
    return np.asarray(self.samples.ids)

  @property
  def log_probs(self) -> np.ndarray:
    """[B, L] log-probability of each token when it was drawn, in nats."""
    return np.asarray(self.samples.log_prob)

  @property
  def trace(self) -> list[Trace]:
    """One a row. Raises UserError for samples without a trace."""
    return traces_of(
      self.samples, self.canvas, self.tokenizer, self.settings, self.title
    )

  def parts(self, row: int) -> list[tuple[str, bool]]:
    """(text, whether it was filled in) of the runs of a row."""
    is_new = ~np.asarray(self.canvas.is_given)[row]
    return runs(self.tokenizer, self.ids[row], is_new)

  def take(self, row: int) -> 'Generated':
    """Returns one row of several."""
    part = slice(row, row + 1)
    one = lambda value: None if value is None else value[part]
    samples = self.samples
    trace = samples.trace and Frame(*(x[:, part] for x in samples.trace))
    samples = samples._replace(
      ids=samples.ids[part],
      log_prob=samples.log_prob[part],
      steps=samples.steps[part],
      trace=trace,
      is_given=one(samples.is_given),
      refused=one(samples.refused),
    )
    ids, is_given, rows = self.canvas
    canvas = Canvas(ids[part], is_given[part], one(rows))
    return dataclasses.replace(
      self, texts=self.texts[part], samples=samples, canvas=canvas
    )

  def save(self, path: str | os.PathLike) -> None:
    """Writes a page that plays the trace."""
    write_trace(os.fspath(path), self.trace)

  def __len__(self) -> int:
    return len(self.texts)

  def __getitem__(self, row: int) -> str:
    return self.texts[row]

  def __str__(self) -> str:
    if len(self.texts) == 1:
      return self.texts[0]
    return '\n'.join(
      f'--- {number}\n{text}' for number, text in enumerate(self.texts, 1)
    )

  __repr__ = __str__

  def _repr_html_(self) -> str | None:
    return None if self.samples.trace is None else show(self.trace).data


@dataclasses.dataclass(frozen=True, repr=False)
class Answers:
  """Answers to sources. Prints the best of each on a line.

  Attributes:
    sources: [N] what was answered.
    candidates: [N] the answers to each, the best first.
    gains: [N] the mean utility of each candidate, in that order: how much the
      others agree with it.
  """

  sources: Sequence[str]
  candidates: list[list[str]]
  gains: list[list[float]]

  @property
  def texts(self) -> list[str]:
    """[N] the best answer to each source."""
    return [texts[0] for texts in self.candidates]

  def __len__(self) -> int:
    return len(self.candidates)

  def __getitem__(self, index: int) -> str:
    return self.candidates[index][0]

  def __str__(self) -> str:
    return '\n'.join(' '.join(text.split()) for text in self.texts)

  __repr__ = __str__


@dataclasses.dataclass(frozen=True, repr=False)
class Scores:
  """A bound on -log p of texts (exact for autoregression). Prints as a table.

  Attributes:
    texts: [N] what was scored.
    nats: [N] of each text, its end included.
    nats_se: [N] standard error of each due to the draws; 0 where the
      likelihood is exact, NaN for one draw.
    tokens: [N] tokens that were scored.
    num_bytes: [N] UTF-8 bytes of these tokens.
    protocol: how the expectation is taken, in words.
  """

  texts: Sequence[str]
  nats: np.ndarray
  nats_se: np.ndarray
  tokens: np.ndarray
  num_bytes: np.ndarray
  protocol: str

  @property
  def bits(self) -> np.ndarray:
    """[N] bits of each text."""
    return self.nats / math.log(2)

  @property
  def bits_se(self) -> np.ndarray:
    """[N] standard error of the bits of each text, due to the draws."""
    return self.nats_se / math.log(2)

  @property
  def bits_per_byte(self) -> float:
    """Bits of all texts over the bytes of all texts."""
    total = int(self.num_bytes.sum())
    if not total:
      raise UserError('the texts have no bytes: nothing to divide by')
    return float(self.bits.sum()) / total

  def __len__(self) -> int:
    return len(self.nats)

  def __str__(self) -> str:
    lines = [
      f'{nats:9.3f} ± {error:.3f} nats  {nats / math.log(2):9.3f} bits  '
      f'{tokens:5d} tokens  {" ".join(text.split())[:60]}'
      for text, nats, error, tokens in zip(
        self.texts, self.nats, self.nats_se, self.tokens
      )
    ]
    return '\n'.join([*lines, f'({self.protocol})'])

  __repr__ = __str__


def runs(
  tokenizer: Tokenizer, ids: np.ndarray, flags: np.ndarray
) -> list[tuple[str, bool]]:
  """(text, flag) of the stretches of tokens [L] with equal flags [L].

  A stretch is what it adds to the text before it, so that all of them join to
  the whole: tokenizers drop the space before the first word of a text. What
  adds no text, such as padding, is left out.
  """
  parts, start, before = [], 0, ''
  for i in range(1, len(ids) + 1):
    if i == len(ids) or flags[i] != flags[start]:
      whole = tokenizer.decode(ids[:i])
      # A character cut in two reads otherwise once it is whole.
      added = tokenizer.decode(ids[start:i])
      if whole.startswith(before):
        added = whole[len(before) :]
      if added:
        parts.append((added, bool(flags[start])))
      start, before = i, whole
  return parts
