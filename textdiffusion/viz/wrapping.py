"""Text of tokens set in lines of letters of one width."""

import unicodedata
from typing import NamedTuple

from textdiffusion.viz.trace import Trace


class Run(NamedTuple):
  """Letters start .. stop of what is shown for the token at `place`."""

  place: int
  line: int
  column: int
  start: int
  stop: int
  columns: int


def layout(trace: Trace, width: int, max_lines: int) -> tuple[list[Run], bool]:
  """Where the letters of the final text go; whether some found no room."""
  shown = [signs(str(piece)) for piece in trace.frames[-1]]
  runs: list[Run] = []
  line = column = 0
  for place, text in enumerate(shown):
    # A word that does not fit goes to the next line as a whole.
    word = columns(text.partition('↵')[0])
    for later in shown[place + 1 :]:
      if '↵' in text or later[:1] in (' ', '↵', '⇥', '') or word > width:
        break
      word += columns(later)
    starts_word = place == 0 or text[:1] == ' ' or shown[place - 1][-1:] == ' '
    token = columns(text.partition('↵')[0])
    too_long = word if starts_word and word <= width else token
    if column and column + too_long > width:
      line, column = line + 1, 0
    start = used = 0
    for i, letter in enumerate(text):
      if used and column + used + columns(letter) > width:
        runs.append(Run(place, line, column, start, i, used))
        line, column, start, used = line + 1, 0, i, 0
      used += columns(letter)
      if letter == '↵':
        runs.append(Run(place, line, column, start, i + 1, used))
        line, column, start, used = line + 1, 0, i + 1, 0
    if used:
      runs.append(Run(place, line, column, start, len(text), used))
      column += used
  kept = [run for run in runs if run.line < max_lines]
  return kept or [Run(0, 0, 0, 0, 0, 1)], len(kept) < len(runs)


def signs(text: str) -> str:
  """Whitespace and control characters as signs of one column each."""
  signs = {'\n': '↵', '\t': '⇥', '\x7f': '␡'}
  return ''.join(
    signs.get(c, chr(0x2400 + ord(c)) if ord(c) < 32 else c)
    if unicodedata.category(c) not in ('Cf', 'Cs', 'Zl', 'Zp')
    else '�'
    for c in text
  )


def words(text: str) -> list[tuple[str, bool]]:
  """Stretches of text, and whether each is a sign, to be drawn faintly."""
  parts: list[tuple[str, bool]] = []
  for letter in text:
    soft = letter in '↵⇥'
    # A wide letter is drawn alone: its advance in another font is not ours.
    if parts and parts[-1][1] == soft and columns(parts[-1][0][-1]) == 1:
      parts[-1] = (parts[-1][0] + letter, soft)
    else:
      parts.append((letter, soft))
  return parts


def columns(text: str) -> int:
  return sum(
    0
    if unicodedata.combining(c)
    else 1 + (unicodedata.east_asian_width(c) in 'WF')
    for c in text
  )


def cropped(text: str, columns: int) -> str:
  if columns(text) <= columns:
    return text
  kept = ''
  for letter in text:
    if columns(kept + letter) >= columns:
      break
    kept += letter
  return kept + '…'
