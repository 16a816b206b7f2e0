"""How much of a text a tokenizer knows: shares of unknown and lost text."""

import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from textdiffusion.data.tokenizers import Tokenizer, Words


class Coverage(NamedTuple):
  """Counts over texts.

  Attributes:
    tokens: ids of the texts, without the ends of documents.
    unknown: how many of them stand for unknown text.
    solid: bytes of the texts, without blanks.
    lost: how many of them no id stands for.
  """

  tokens: int = 0
  unknown: int = 0
  solid: int = 0
  lost: int = 0

  def plus(self, other: 'Coverage') -> 'Coverage':
    """The counts of both together."""
    return Coverage(*(a + b for a, b in zip(self, other)))

  @property
  def share(self) -> float:
    """The larger of the shares of unknown tokens and of lost bytes."""
    unknown = self.unknown / max(self.tokens, 1)
    return max(unknown, self.lost / max(self.solid, 1))

  def describe(self, name: str, kind: str) -> str:
    """The shares that are not 0, in words; '' where both are.

    Args:
      name: of the texts.
      kind: of the tokenizer.
    """
    parts = []
    if self.unknown:
      share = self.unknown / self.tokens
      parts.append(f'{share:.2%} of the tokens of {name} are unknown')
    if self.lost:
      share = self.lost / self.solid
      parts.append(f'{share:.2%} of the bytes of {name} are lost')
    return f'{" and ".join(parts)} (tokenizer: {kind})' if parts else ''


def measure(tokenizer: Tokenizer, text: str, ids: np.ndarray) -> Coverage:
  """The coverage of a text by the ids that it encodes to."""
  unknown = 0
  if tokenizer.unknown_id is not None:
    unknown = int((ids == tokenizer.unknown_id).sum())
  solid = len(''.join(text.split()).encode('utf-8', 'surrogatepass'))
  lost = max(solid - int(tokenizer.solid_lengths[ids].sum()), 0)
  if isinstance(tokenizer, Words):
    lost = 0  # a word that is not known leaves an unknown token
  return Coverage(len(ids), unknown, solid, lost)


def warn_unknown(tokenizer: Tokenizer, texts: Iterable[str], name: str) -> None:
  """Prints on stderr which share of the texts the tokenizer does not know.

  Args:
    tokenizer: what encodes them.
    texts: prompts or sources.
    name: of the texts, for the message.
  """
  total = Coverage()
  for text in texts:
    total = total.plus(measure(tokenizer, text, tokenizer.encode(text)))
  warn(total, tokenizer, name)


def warn(coverage: Coverage, tokenizer: Tokenizer, name: str) -> None:
  """Prints the shares of `Coverage.describe` on stderr, if there are any."""
  message = coverage.describe(name, tokenizer.kind)
  if message:
    print(message, file=sys.stderr)
