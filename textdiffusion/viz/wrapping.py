"""Breaks the text of tokens into lines of a monospaced font."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

_SIGNS = {'\n': '↵', '\t': '⇥', '\x7f': '␡'}


class Run(NamedTuple):
  """Letters of one token that are on one line.

  Attributes:
    place: index of the token.
    line: index of the line.
    column: first column on that line.
    start: index of the first letter, among the signs of the token.
    stop: index after the last letter.
    width: columns that the letters take.
  """

  place: int
  line: int
  column: int
  start: int
  stop: int
  width: int


def wrap(
  pieces: Sequence[str], width: int, max_lines: int
) -> tuple[list[Run], bool]:
  """Lays out the letters of a text in lines of `width` columns.

  A newline ends its line. A word that does not fit moves to the next line as a
  whole, even if it consists of several tokens.

  Args:
    pieces: the strings of the tokens.
    width: columns per line.
    max_lines: largest number of lines.

  Returns:
    At least one run, and whether some letters did not fit.
  """
  shown = [signs(piece) for piece in pieces]
  runs: list[Run] = []
  line = column = 0
  for place, text in enumerate(shown):
    if column and column + _head(shown, place, width) > width:
      line, column = line + 1, 0
    start = used = 0
    for i, letter in enumerate(text):
      if used and column + used + measure(letter) > width:
        runs.append(Run(place, line, column, start, i, used))
        line, column, start, used = line + 1, 0, i, 0
      used += measure(letter)
      if letter == '↵':
        runs.append(Run(place, line, column, start, i + 1, used))
        line, column, start, used = line + 1, 0, i + 1, 0
    if used:
      runs.append(Run(place, line, column, start, len(text), used))
      column += used
  kept = [run for run in runs if run.line < max_lines]
  return kept or [Run(0, 0, 0, 0, 0, 1)], len(kept) < len(runs)


def _head(shown: Sequence[str], place: int, width: int) -> int:
  """Returns the columns that must be free on a line to put a token there."""
  token, newline, _ = shown[place].partition('↵')
  whole = measure(token)
  before = shown[place - 1][-1:] if place else ' '
  if newline or not (token[:1] == ' ' or before == ' '):
    return whole
  word = whole
  for later in shown[place + 1 :]:
    if later[:1] in ('', ' ', '↵', '⇥'):
      break
    word += measure(later)
    if word > width:  # The word is broken wherever it starts.
      return whole
  return word


def signs(text: str) -> str:
  """Replaces each invisible letter by a visible sign of one column."""
  return ''.join(map(_sign, text))


def _sign(letter: str) -> str:
  if unicodedata.category(letter) in ('Cf', 'Cs', 'Zl', 'Zp'):
    return '\ufffd'
  control = chr(0x2400 + ord(letter)) if ord(letter) < 32 else letter
  return _SIGNS.get(letter, control)


def stretches(text: str) -> list[tuple[str, bool]]:
  """Splits a text into parts of signs (drawn faintly) and of other letters.

  Each part comes with whether it consists of signs.
  """
  parts: list[tuple[str, bool]] = []
  for letter in text:
    is_sign = letter in '↵⇥'
    # A wide letter is drawn on its own, as it may come from another font with
    # another advance width.
    if parts and parts[-1][1] == is_sign and measure(parts[-1][0][-1]) == 1:
      parts[-1] = (parts[-1][0] + letter, is_sign)
    else:
      parts.append((letter, is_sign))
  return parts


def measure(text: str) -> int:
  """Returns the columns of a text: two for wide letters, none for marks."""
  return sum(
    0
    if unicodedata.combining(letter)
    else 1 + (unicodedata.east_asian_width(letter) in 'WF')
    for letter in text
  )


def cropped(text: str, width: int) -> str:
  """Returns the text, cut with an ellipsis if it exceeds `width` columns."""
  if measure(text) <= width:
    return text
  kept = ''
  for letter in text:
    if measure(kept + letter) >= width:
      break
    kept += letter
  return kept + '…'
