"""The text of tokens, set in lines of letters of one width."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

_SIGNS = {'\n': '↵', '\t': '⇥', '\x7f': '␡'}


class Run(NamedTuple):
  """Letters start .. stop of the signs of the token at `place`, in a line."""

  place: int
  line: int
  column: int
  start: int
  stop: int
  width: int


def wrap(
  pieces: Sequence[str], width: int, max_lines: int
) -> tuple[list[Run], bool]:
  """Where the letters of a text go, in lines of `width` columns.

  -> at least one run, and whether some letters found no room. A newline ends
  its line; a word that does not fit goes to the next one, whatever the number
  of its tokens.
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
  """Columns that must fit in a line for the token at `place` to go there."""
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
    if word > width:  # it will be broken wherever it starts
      return whole
  return word


def signs(text: str) -> str:
  """Text with a sign of one column for each letter that is not seen."""
  return ''.join(map(_sign, text))


def _sign(letter: str) -> str:
  if unicodedata.category(letter) in ('Cf', 'Cs', 'Zl', 'Zp'):
    return '\ufffd'
  control = chr(0x2400 + ord(letter)) if ord(letter) < 32 else letter
  return _SIGNS.get(letter, control)


def stretches(text: str) -> list[tuple[str, bool]]:
  """Parts of a text, and whether each is of signs, to be drawn faintly."""
  parts: list[tuple[str, bool]] = []
  for letter in text:
    is_sign = letter in '↵⇥'
    # A wide letter is drawn alone: its advance in another font is not ours.
    if parts and parts[-1][1] == is_sign and measure(parts[-1][0][-1]) == 1:
      parts[-1] = (parts[-1][0] + letter, is_sign)
    else:
      parts.append((letter, is_sign))
  return parts


def measure(text: str) -> int:
  """Columns that a text takes: wide letters two, combining marks none."""
  return sum(
    0
    if unicodedata.combining(letter)
    else 1 + (unicodedata.east_asian_width(letter) in 'WF')
    for letter in text
  )


def cropped(text: str, width: int) -> str:
  """The text if it fits in `width` columns, else its start and an ellipsis."""
  if measure(text) <= width:
    return text
  kept = ''
  for letter in text:
    if measure(kept + letter) >= width:
      break
    kept += letter
  return kept + '…'
