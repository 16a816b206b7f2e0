"""Splits texts into words and punctuation, and joins them without loss.

A piece that follows a space begins with U+2581, as in SentencePiece; so does
the first piece of a text. Each punctuation mark at either end of a word is a
piece of its own. Punctuation inside a word stays: `family-friendly`, `it's`,
`£20-25`.

  It's cheap, isn't it?  ->  ▁It's ▁cheap , ▁isn't ▁it ?
"""

SPACE = '\u2581'
_BEFORE = '\'"([“‘'
_AFTER = '.,;:!?\'")]”’'


def split_words(text: str) -> list[str]:
  """Splits a text into pieces. U+2581 in the text counts as a space."""
  pieces = []
  for chunk in text.replace(SPACE, ' ').split():
    body = chunk.lstrip(_BEFORE)
    word = body.rstrip(_AFTER)
    before, after = chunk[: len(chunk) - len(body)], body[len(word) :]
    parts = [*before, word, *after] if word else [*before, *after]
    pieces += [SPACE + parts[0], *parts[1:]]
  return pieces


def join_words(pieces: list[str]) -> str:
  """Joins pieces to a text: the inverse of `split_words` up to whitespace."""
  return ''.join(pieces).replace(SPACE, ' ').removeprefix(' ')
