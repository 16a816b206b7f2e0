"""Draws a denoising trace as a still picture: some of its steps, as rows.

Lines break as in the final text in every row, so that a place in the text is at
the same place in all rows.
"""

import io
import math
import os
import warnings
from typing import Any

from textdiffusion.core.types import UserError
from textdiffusion.viz.page import write_bytes
from textdiffusion.viz.trace import RAMPS, Trace
from textdiffusion.viz.wrapping import (
  Run,
  cropped,
  measure,
  signs,
  stretches,
  wrap,
)

_LIGHT: dict[str, Any] = {
  'paper': '#ffffff',
  'ink': '#1c1c21',
  'soft': '#73737e',
  'line': '#e6e6e8',
  'mask': '#e8e8ec',
  'accent': '#4154d6',
  'strength': 0.36,
}
_DARK: dict[str, Any] = {
  'paper': '#16161a',
  'ink': '#ececf1',
  'soft': '#9a9aa6',
  'line': '#2c2c34',
  'mask': '#303038',
  'accent': '#93a1ff',
  'strength': 0.46,
}
# Sizes in points. The advance width of DejaVu Sans Mono, which comes with
# matplotlib, is 0.602 of the font size.
_SIZE = 9.5
_COLUMN = 0.602 * _SIZE
_LINE = 1.95 * _SIZE
_GUTTER, _MARGIN, _GAP = 74, 20, 15


def trace_png(
  trace: Trace,
  path: str | os.PathLike,
  rows: int = 5,
  width: int = 88,
  max_lines: int = 6,
  colour: str = 'confidence',
  dark: bool = False,
) -> None:
  """Writes the picture of `trace_figure` to a file, atomically.

  Args:
    trace: the trace.
    path: the file; its suffix selects the format, such as .png or .svg.
    rows: see `trace_figure`.
    width: see `trace_figure`.
    max_lines: see `trace_figure`.
    colour: see `trace_figure`.
    dark: see `trace_figure`.

  Raises:
    UserError: as `trace_figure`, or for an unknown suffix.
  """
  figure = trace_figure(trace, rows, width, max_lines, colour, dark)
  suffix = os.path.splitext(path)[1][1:].lower() or 'png'
  known = sorted(figure.canvas.get_supported_filetypes())
  if suffix not in known:
    raise UserError(f'{path}: draw a trace as one of {", ".join(known)}')
  content = io.BytesIO()
  with warnings.catch_warnings():
    # A letter that no font has is drawn as a box, so no warning is needed.
    warnings.filterwarnings('ignore', message='.*[Gg]lyph .* missing')
    figure.savefig(content, format=suffix, dpi=200)
  write_bytes(path, content.getvalue())


def trace_figure(
  trace: Trace,
  rows: int = 5,
  width: int = 88,
  max_lines: int = 6,
  colour: str = 'confidence',
  dark: bool = False,
) -> Any:
  """Draws evenly spread steps of a trace, the last included, with matplotlib.

  Args:
    trace: the trace.
    rows: number of steps to draw; fewer if the trace has fewer.
    width: letters per line.
    max_lines: lines of text per step; the rest of the text is left out.
    colour: what the colour of a token shows, 'confidence' or 'step'.
    dark: whether to draw light text on a dark background.

  Returns:
    A matplotlib figure.

  Raises:
    UserError: a size is too small, or `colour` is unknown.
  """
  for name, value in (('rows', rows), ('max_lines', max_lines)):
    if value < 1:
      raise UserError(f'{name}={value} of a picture must be at least 1')
  if width < 20:
    raise UserError(f'width={width} of a picture must be at least 20')
  if colour not in RAMPS:
    raise UserError(
      f'colour={colour!r} of a picture is none of {", ".join(RAMPS)}'
    )
  from matplotlib.figure import Figure

  look = _DARK if dark else _LIGHT
  last = len(trace.times) - 1
  rows = min(rows, last + 1)
  chosen = [round(last * (i + 1) / rows) for i in range(rows)]
  if rows > 1:
    chosen = [round(last * i / (rows - 1)) for i in range(rows)]
  final = [str(piece) for piece in trace.frames[-1]]
  runs, is_cut = wrap(final, width, max_lines)
  lines = 1 + max(run.line for run in runs)
  width = max(40, *(run.column + run.width + 1 for run in runs))
  block = max(lines * _LINE, 2 * _LINE) + _GAP
  facts = '  ·  '.join(f'{k} {v}' for k, v in trace.settings.items())
  head = _MARGIN + 0.5 * _SIZE
  top = head + (1.6 * _SIZE if trace.title else 0) + (_SIZE if facts else 0)
  size = (
    2 * _MARGIN + _GUTTER + width * _COLUMN,
    top + rows * block + 2.6 * _SIZE + 0.5 * _MARGIN,
  )
  figure = Figure(figsize=(size[0] / 72, size[1] / 72), facecolor=look['paper'])
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
  axes.axis('off')
  pen = _Pen(axes, look)
  room = int((size[0] - 2 * _MARGIN) / (0.46 * _SIZE))
  if trace.title:
    title = cropped(signs(trace.title), int(0.6 * room))
    pen.text(_MARGIN, head, title, 1.2, weight='bold')
  if facts:
    line = head + (1.7 * _SIZE if trace.title else 0)
    pen.text(_MARGIN, line, cropped(signs(facts), room), 0.82, soft=True)
  births = _births(trace)
  for i, frame in enumerate(chosen):
    y = top + i * block
    if i:
      pen.rule(_MARGIN, size[0] - _MARGIN, y)
    _margin(pen, trace, frame, y + 0.5 * _GAP + 0.5 * _LINE)
    _row(pen, trace, frame, births[frame], runs, y + 0.5 * _GAP, colour)
    if is_cut:
      end = _MARGIN + _GUTTER + (runs[-1].column + runs[-1].width) * _COLUMN
      bottom = y + 0.5 * _GAP + (runs[-1].line + 0.5) * _LINE
      pen.text(end + 4, bottom, '…', soft=True)
  _legend(pen, trace, size, colour)
  return figure


class _Pen:
  """Draws on matplotlib axes in points, with y downward."""

  def __init__(self, axes: Any, look: dict[str, Any]):
    self.axes, self.look = axes, look

  def text(
    self,
    x: float,
    y: float,
    text: str,
    scale: float = 1.0,
    *,
    mono: bool = False,
    soft: bool = False,
    weight: str = 'normal',
    align: str = 'left',
  ) -> None:
    self.axes.text(
      x,
      y,
      text,
      size=scale * _SIZE,
      family=['DejaVu Sans Mono', 'DejaVu Sans'] if mono else 'DejaVu Sans',
      color=self.look['soft' if soft else 'ink'],
      weight=weight,
      ha=align,
      va='center_baseline',
      parse_math=False,  # A dollar sign in a text is only a dollar sign.
    )

  def chip(
    self, x: float, y: float, width: float, height: float, colour: Any
  ) -> None:
    from matplotlib.patches import FancyBboxPatch

    radius = min(2.6, width / 2, height / 2)
    style = f'round,pad=0,rounding_size={radius}'
    self.axes.add_patch(
      FancyBboxPatch((x, y), width, height, style, color=colour, lw=0)
    )

  def rule(
    self,
    x0: float,
    x1: float,
    y: float,
    colour: str = 'line',
    thickness: float = 0.8,
  ) -> None:
    self.axes.plot(
      (x0, x1),
      (y, y),
      color=self.look[colour],
      lw=thickness,
      solid_capstyle='butt',
    )

  def tint(self, ramp: str, share: float) -> tuple[float, ...]:
    """Returns a colour of the ramp, blended with the background."""
    strength = self.look['strength']
    paper = _channels(self.look['paper'])
    return tuple(
      strength * c + (1 - strength) * p
      for c, p in zip(_ramp(ramp, share), paper)
    )


def _row(
  pen: _Pen,
  trace: Trace,
  frame: int,
  births: list[int],
  runs: list[Run],
  top: float,
  colour: str,
) -> None:
  """Draws one frame of the text.

  Args:
    pen: the pen.
    trace: the trace.
    frame: index of the frame.
    births: [L] frame in which the current token of each place appeared.
    runs: layout of the final text.
    top: y of the first line.
    colour: 'confidence' or 'step'.
  """
  last = len(trace.times) - 1
  for run in runs:
    place = run.place
    masked = bool(trace.is_masked[frame][place])
    given = bool(trace.is_given[place]) and not masked
    x = _MARGIN + _GUTTER + run.column * _COLUMN
    y = top + run.line * _LINE
    width = run.width * _COLUMN
    middle = y + _LINE / 2
    if not given:
      log_prob = float(trace.log_prob[frame][place])
      shade = pen.look['mask']
      if not masked and colour == 'step':
        shade = pen.tint('step', (births[place] - 1) / max(last - 1, 1))
      elif not masked and not math.isnan(log_prob):
        shade = pen.tint('confidence', math.exp(min(log_prob, 0.0)))
      pen.chip(x + 0.4, y + 1.6, max(width - 0.8, 0.4), _LINE - 3.2, shade)
    if masked:
      continue
    shown = signs(str(trace.frames[frame][place]))
    if str(trace.frames[frame][place]) == str(trace.frames[-1][place]):
      shown = shown[run.start : run.stop]
    else:
      # The layout is that of the final token; this one is cropped to it.
      shown = cropped(shown, run.width) if run.start == 0 else ''
    column = 0
    for word, soft in stretches(shown):
      at = x + column * _COLUMN
      pen.text(at, middle, word, mono=True, soft=soft)
      column += measure(word)
    if given:
      pen.rule(x, x + width, y + _LINE - 3.0, 'accent', 1.1)


def _margin(pen: _Pen, trace: Trace, frame: int, middle: float) -> None:
  """Draws the step, the time, and the share of the text that is unmasked."""
  pen.text(_MARGIN, middle, f'step {frame}', 0.92, weight='bold')
  pen.text(
    _MARGIN,
    middle + 0.82 * _LINE,
    f't = {float(trace.times[frame]):.2f}',
    0.82,
    soft=True,
  )
  free = [not is_given for is_given in trace.is_given]
  masked = sum(
    bool(is_masked) and is_free
    for is_masked, is_free in zip(trace.is_masked[frame], free)
  )
  share = 1 - masked / max(sum(free), 1)
  y = middle + 1.34 * _LINE
  pen.chip(_MARGIN, y, 46, 2.6, pen.look['line'])
  if share > 0:
    pen.chip(_MARGIN, y, 46 * share, 2.6, pen.look['accent'])


def _legend(
  pen: _Pen, trace: Trace, size: tuple[float, float], colour: str
) -> None:
  """Draws the legend of the colours."""
  y = size[1] - 0.5 * _MARGIN - 0.9 * _SIZE
  x = size[0] - _MARGIN
  ends = {
    'confidence': ('unsure', 'sure'),
    'step': ('first', 'last step'),
  }[colour]
  small = 0.82
  pen.text(x, y, ends[1], small, soft=True, align='right')
  x -= len(ends[1]) * 0.5 * _SIZE + 6
  for i in range(24):
    left = x - 60 + 2.5 * i
    shade = pen.tint(colour, i / 23)
    pen.axes.fill_between(
      (left, left + 2.7), y - 3.5, y + 3.5, color=shade, lw=0
    )
  x -= 66
  pen.text(x, y, ends[0], small, soft=True, align='right')
  x -= len(ends[0]) * 0.5 * _SIZE + 16
  if any(map(any, trace.is_masked)):
    pen.text(x, y, 'masked', small, soft=True, align='right')
    x -= 3.1 * _SIZE + 6 + 18
    pen.chip(x, y - 4.5, 18, 9, pen.look['mask'])
    x -= 16
  if any(trace.is_given):
    pen.text(x, y, 'given', small, soft=True, align='right')
    x -= 2.4 * _SIZE + 6 + 16
    pen.rule(x, x + 16, y + 2.5, 'accent', 1.1)
    x -= 16


def _births(trace: Trace) -> list[list[int]]:
  """Returns [T + 1][L] the frame in which each current token appeared."""
  births = [[0] * len(trace.is_given)]
  for frame in range(1, len(trace.times)):
    births.append(
      [
        births[-1][place]
        if trace.frames[frame][place] == trace.frames[frame - 1][place]
        and trace.is_masked[frame][place] == trace.is_masked[frame - 1][place]
        else frame
        for place in range(len(trace.is_given))
      ]
    )
  return births


def _ramp(name: str, share: float) -> tuple[float, ...]:
  """Returns the colour of a ramp at `share` in [0, 1], channels in [0, 1].

  The square root of a confidence is used, as in trace.js.
  """
  if name == 'confidence':
    share = math.sqrt(share)
  stops = RAMPS[name]
  x = min(max(share, 0.0), 1.0) * (len(stops) - 1)
  i = min(int(x), len(stops) - 2)
  return tuple(
    a + (b - a) * (x - i)
    for a, b in zip(_channels(stops[i]), _channels(stops[i + 1]))
  )


def _channels(colour: str) -> tuple[float, ...]:
  """Parses `#rrggbb` to channels in [0, 1]."""
  return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
