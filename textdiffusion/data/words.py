"""Texts as words and punctuation, and back without loss.

A piece that follows a space, as the first of a text does, begins with U+2581,
the mark of SentencePiece. Punctuation at either end of a word is a piece for
each character; inside a word it stays: `family-friendly`, `it's`, `£20-25`.

  It's cheap, isn't it?  ->  ▁It's ▁cheap , ▁isn't ▁it ?
"""

SPACE = '\u2581'
_BEFORE = '\'"([“‘'
_AFTER = '.,;:!?\'")]”’'


def split_words(text: str) -> list[str]:
  """The pieces of a text. U+2581 in the text counts as a space."""
  pieces = []
  for chunk in text.replace(SPACE, ' ').split():
    body = chunk.lstrip(_BEFORE)
    word = body.rstrip(_AFTER)
    before, after = chunk[: len(chunk) - len(body)], body[len(word) :]
    parts = [*before, word, *after] if word else [*before, *after]
    pieces += [SPACE + parts[0], *parts[1:]]
  return pieces


def join_words(pieces: list[str]) -> str:
  """The inverse of `split_words`, with single spaces."""
  return ''.join(pieces).replace(SPACE, ' ').removeprefix(' ')
