"""Coverage of texts by a tokenizer: shares of unknown and of lost text."""

import sys
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from textdiffusion.data.tokenizers import Tokenizer, Words


class Coverage(NamedTuple):
  """Counts of unknown tokens and lost bytes.

  Attributes:
    tokens: number of tokens, without end-of-document tokens.
    unknown: number of these that are the unknown token.
    solid: number of UTF-8 bytes, without whitespace.
    lost: number of these that no token represents.
  """

  tokens: int = 0
  unknown: int = 0
  solid: int = 0
  lost: int = 0

  def plus(self, other: 'Coverage') -> 'Coverage':
    """Returns the sums of both counts."""
    return Coverage(*(a + b for a, b in zip(self, other)))

  @property
  def share(self) -> float:
    """The share of unknown tokens or of lost bytes, whichever is larger."""
    unknown = self.unknown / max(self.tokens, 1)
    return max(unknown, self.lost / max(self.solid, 1))

  def describe(self, name: str, kind: str) -> str:
    """Describes the shares that are not 0 in a sentence, '' if both are 0.

    Args:
      name: name of the texts.
      kind: kind of the tokenizer.
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
  """Counts unknown tokens, and bytes that decoding would not bring back.

  Args:
    tokenizer: the tokenizer.
    text: the text.
    ids: the text, encoded without special tokens.
  """
  unknown = 0
  if tokenizer.unknown_id is not None:
    unknown = int((ids == tokenizer.unknown_id).sum())
  solid = len(''.join(text.split()).encode('utf-8', 'surrogatepass'))
  lost = max(solid - int(tokenizer.solid_lengths[ids].sum()), 0)
  if isinstance(tokenizer, Words):
    lost = 0  # Every unknown word is counted as an unknown token.
  return Coverage(len(ids), unknown, solid, lost)


def warn_unknown(tokenizer: Tokenizer, texts: Iterable[str], name: str) -> None:
  """Prints to stderr what of the texts the tokenizer cannot represent.

  These are the first unknown words if tokens are words, and otherwise the
  share of the tokens or bytes.

  Args:
    tokenizer: the tokenizer that encodes the texts.
    texts: prompts or sources.
    name: name of the texts, for the message.
  """
  if isinstance(tokenizer, Words):
    return _warn_unknown_words(tokenizer, texts, name)
  total = Coverage()
  for text in texts:
    total = total.plus(measure(tokenizer, text, tokenizer.encode(text)))
  warn(total, tokenizer, name)


def _warn_unknown_words(
  tokenizer: Words, texts: Iterable[str], name: str
) -> None:
  unknown = [word for text in texts for word in tokenizer.unknown(text)]
  if unknown:
    first = ', '.join(map(repr, list(dict.fromkeys(unknown))[:5]))
    print(
      f'{len(unknown)} word(s) of {name} are unknown and read as <unk>: '
      f'{first}',
      file=sys.stderr,
    )


def warn(coverage: Coverage, tokenizer: Tokenizer, name: str) -> None:
  """Prints `Coverage.describe` to stderr, unless it is empty.

  Args:
    coverage: the counts.
    tokenizer: the tokenizer.
    name: name of the texts, for the message.
  """
  message = coverage.describe(name, tokenizer.kind)
  if message:
    print(message, file=sys.stderr)
