"""A denoising trace as a page that plays it, and as a picture."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from textdiffusion.core.types import UserError
from textdiffusion.viz.page import page, write


@dataclasses.dataclass(frozen=True)
class Trace:
  """One sample from noise to text, T + 1 frames of L tokens.

  frames: display strings, the start first. log_prob: of each token when it was
  drawn. is_masked: whether it is still the mask. is_given: [L] whether it was
  given. times: [T + 1]. settings: what to print below.
  """

  frames: Sequence[Sequence[str]]
  log_prob: Sequence[Sequence[float]]
  is_masked: Sequence[Sequence[bool]]
  is_given: Sequence[bool]
  times: Sequence[float]
  title: str = ''
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self) -> None:
    length = len(self.is_given)
    for name in ('frames', 'log_prob', 'is_masked'):
      value = getattr(self, name)
      if len(value) != len(self.times) or any(
        len(row) != length for row in value
      ):
        raise UserError(
          f'a trace of {len(self.times)} frames of {length} tokens has other '
          f'sizes in {name}'
        )
    if not self.times or not length:
      raise UserError('a trace needs at least one frame and one token')


def to_json(trace: Trace) -> dict[str, Any]:
  """The first frame and what changes in each later one.

  A cell is [piece, is masked, confidence in percent]; pieces are indices into
  a table of strings.
  """
  table: dict[str, int] = {}

  def cell(frame: int, place: int) -> list[int]:
    piece = trace.frames[frame][place]
    confidence = math.exp(min(trace.log_prob[frame][place], 0.0))
    return [
      table.setdefault(piece, len(table)),
      int(trace.is_masked[frame][place]),
      round(100 * confidence),
    ]

  places = range(len(trace.is_given))
  first = [cell(0, place) for place in places]
  changes, last = [], list(first)
  for frame in range(1, len(trace.times)):
    change = []
    for place in places:
      now = cell(frame, place)
      if now != last[place]:
        change.append([place, *now])
        last[place] = now
    changes.append(change)
  return {
    'title': trace.title,
    'settings': {k: str(v) for k, v in trace.settings.items()},
    'pieces': list(table),
    'given': [int(given) for given in trace.is_given],
    'times': [round(float(t), 4) for t in trace.times],
    'first': first,
    'changes': changes,
  }


def trace_html(
  traces: Sequence[Trace], title: str = 'Denoising trace'
) -> str:
  """A self-contained page that plays the traces."""
  data = {'traces': [to_json(trace) for trace in traces]}
  return page(title, player(), data, ['trace.js'])


def player() -> str:
  """The element that trace.js fills from the data `traces`."""
  return '<section class="player" id="player"></section>'


def write_trace(
  path: str | os.PathLike,
  traces: Sequence[Trace],
  title: str = 'Denoising trace',
) -> None:
  """`trace_html` to a file."""
  write(path, trace_html(traces, title))


def show(traces: Sequence[Trace], height: int = 460) -> Any:
  """The player in a notebook cell."""
  import html

  from IPython.display import HTML

  source = html.escape(trace_html(traces), quote=True)
  return HTML(
    f'<iframe srcdoc="{source}" style="width:100%;height:{height}px;border:0">'
    '</iframe>'
  )


def trace_png(
  trace: Trace, path: str | os.PathLike, rows: int = 5, width: int = 96
) -> None:
  """A strip of frames, tokens coloured by the step that revealed them.

  Args:
    rows: how many frames, spread over the trace.
    width: characters in a line.
  """
  import matplotlib

  matplotlib.use('Agg')
  from matplotlib import pyplot as plt

  last = len(trace.times) - 1
  chosen = [round(i * last / (rows - 1)) for i in range(rows)]
  born = _born(trace)
  lines = [_wrapped(trace, frame, width) for frame in chosen]
  height = sum(len(block) + 0.9 for block in lines)
  figure = plt.figure(figsize=(11, 0.26 * height + 0.2), facecolor='white')
  axes = figure.add_axes((0, 0, 1, 1))
  axes.set(xlim=(0, width + 13), ylim=(height, -0.4))
  axes.axis('off')
  ramp = matplotlib.colormaps['viridis']
  y = 0.4
  for frame, block in zip(chosen, lines):
    axes.text(0.5, y, f'step {frame}', size=9, color='#888', va='center')
    for line in block:
      x = 11.0
      for place, text in line:
        masked = trace.is_masked[frame][place]
        size = max(len(text), 1)
        if not trace.is_given[place]:
          shade = (
            '#e9e9ee' if masked else ramp(0.15 + 0.75 * born[place] / last)
          )
          axes.add_patch(
            plt.Rectangle(
              (x + 0.06, y - 0.42),
              size - 0.12,
              0.84,
              color=shade,
              alpha=1 if masked else 0.28,
              lw=0,
            )
          )
        for i, letter in enumerate(text if not masked else ''):
          axes.text(
            x + i + 0.5,
            y,
            letter,
            family='monospace',
            size=9.5,
            ha='center',
            va='center',
            weight='bold' if trace.is_given[place] else 'normal',
            color='#1b1b1f',
          )
        x += size
      y += 1
    y += 0.9
  figure.savefig(path, dpi=150)
  plt.close(figure)


def _born(trace: Trace) -> list[int]:
  """[L] the last frame at which each token changed."""
  born = []
  for place in range(len(trace.is_given)):
    column = [frame[place] for frame in trace.frames]
    masked = [row[place] for row in trace.is_masked]
    changed = [
      i
      for i in range(1, len(column))
      if column[i] != column[i - 1] or masked[i] != masked[i - 1]
    ]
    born.append(changed[-1] if changed else 0)
  return born


def _wrapped(
  trace: Trace, frame: int, width: int
) -> list[list[tuple[int, str]]]:
  """(place, text) in lines; masks are as wide as what comes of them."""
  lines: list[list[tuple[int, str]]] = [[]]
  used = 0
  for place, text in enumerate(trace.frames[-1]):
    shown = text.replace('\n', '⏎').replace('\t', '→')
    if not trace.is_masked[frame][place]:
      now = trace.frames[frame][place].replace('\n', '⏎').replace('\t', '→')
      shown = now.ljust(len(shown))
    if used + len(shown) > width and used:
      lines.append([])
      used = 0
    lines[-1].append((place, shown))
    used += len(shown)
  return lines
