"""Denoising traces, and the HTML page that plays them."""

import dataclasses
import html
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from textdiffusion.core.types import UserError
from textdiffusion.viz.page import escape, page, write

# `step`: colours from the first step to the last. `confidence`: colours from 0
# to 1; the middle colour is at a quarter, as the ramp uses the square root.
RAMPS = {
  'step': ('#4154d6', '#a9479f', '#e8704a', '#efb13e'),
  'confidence': ('#d2423a', '#e9b040', '#1f968b'),
}


@dataclasses.dataclass(frozen=True)
class Trace:
  """One sample from noise to text: T + 1 frames of L tokens.

  A token may change, or be masked again, from any frame to the next. Fields may
  be lists or arrays.

  Attributes:
    frames: [T + 1][L] display strings, from noise to text.
    log_prob: [T + 1][L] log-probability in nats of each token when it was
      drawn; not finite if unknown.
    is_masked: [T + 1][L] whether a token is still masked.
    is_given: [L] whether a token was given: a prompt, or the text around a gap.
    times: [T + 1] diffusion times, 1 is noise and 0 is clean.
    title: name of the trace.
    settings: settings to print below the trace.
    ids: [T + 1][L] token ids; None does not show ids.
    text: the final text as decoded by the tokenizer; None joins the strings of
      the last frame.

  Raises:
    UserError: sizes differ, or a time is not finite.
  """

  frames: Sequence[Sequence[str]]
  log_prob: Sequence[Sequence[float]]
  is_masked: Sequence[Sequence[bool]]
  is_given: Sequence[bool]
  times: Sequence[float]
  title: str = ''
  settings: Mapping[str, object] = dataclasses.field(default_factory=dict)
  ids: Sequence[Sequence[int]] | None = None
  text: str | None = None

  def __post_init__(self) -> None:
    count, length = len(self.times), len(self.is_given)
    for name in ('frames', 'log_prob', 'is_masked', 'ids'):
      value = getattr(self, name)
      if value is None:
        continue
      if len(value) != count:
        raise UserError(
          f'a trace with {count} times has {len(value)} rows in {name}: give '
          'one for each time'
        )
      for i, row in enumerate(value):
        if len(row) != length:
          raise UserError(
            f'a trace of {length} tokens has {len(row)} in {name}[{i}]: every '
            'row needs one entry for each token'
          )
    if not count or not length:
      raise UserError('a trace needs at least one frame and one token')
    for i, time in enumerate(self.times):
      if not math.isfinite(time):
        raise UserError(f'times[{i}]={time} of a trace is not finite')


def to_json(trace: Trace) -> dict[str, object]:
  """Encodes a trace as its first frame and the changes in each later frame.

  `first` is a flat list of [code, confidence] for every place. An entry of
  `changes` is a flat list of [place, code, confidence] for the places that
  differ from the frame before. A code is 2 * index into `pieces` + is_masked. A
  confidence is exp(log_prob) in thousandths, and -1 for masks, given tokens and
  unknown confidences.
  """
  table: dict[tuple[str, int], int] = {}
  given = [bool(is_given) for is_given in trace.is_given]

  def cells(frame: int) -> list[tuple[int, int]]:
    row = []
    ids = trace.ids[frame] if trace.ids is not None else [-1] * len(given)
    for piece, index, masked, log_prob, is_given in zip(
      trace.frames[frame],
      ids,
      trace.is_masked[frame],
      trace.log_prob[frame],
      given,
    ):
      key = (str(piece), int(index))
      code = 2 * table.setdefault(key, len(table)) + bool(masked)
      known = not (masked or is_given) and not math.isnan(log_prob)
      sure = round(1000 * math.exp(min(log_prob, 0.0))) if known else -1
      row.append((code, sure))
    return row

  last = cells(0)
  first = [number for cell in last for number in cell]
  changes = []
  for frame in range(1, len(trace.times)):
    row = cells(frame)
    changes.append(
      [
        number
        for place, (old, new) in enumerate(zip(last, row))
        if old != new
        for number in (place, *new)
      ]
    )
    last = row
  data: dict[str, object] = {
    'title': trace.title,
    'settings': [[str(k), str(v)] for k, v in trace.settings.items()],
    'pieces': [piece for piece, _ in table],
    'given': [int(is_given) for is_given in given],
    'times': [round(float(t), 6) for t in trace.times],
    'first': first,
    'changes': changes,
  }
  if trace.ids is not None:
    data['ids'] = [index for _, index in table]
  if trace.text is not None:
    data['text'] = trace.text
  return data


def player_data(traces: Sequence[Trace]) -> dict[str, object]:
  """Returns the data of trace.js, which the page holds under `traces`."""
  return {'traces': [to_json(trace) for trace in traces], 'ramps': RAMPS}


def player(traces: Sequence[Trace], keys: str = 'player') -> str:
  """Returns the HTML element that trace.js fills.

  Without scripts it shows the final texts.

  Args:
    traces: the traces to play.
    keys: 'page' if the space and arrow keys control the player wherever the
      focus is, 'player' if only while the player has the focus.
  """
  texts = ''.join(
    f'<p>{escape(trace.title)}</p><pre>\n{escape(final_text(trace))}</pre>'
    for trace in traces
  )
  return (
    f'<section class="player" id="player" data-keys="{keys}" '
    f'aria-label="Trace player"><noscript>{texts}</noscript></section>'
  )


def final_text(trace: Trace) -> str:
  """Returns the final text of a trace, without masks."""
  if trace.text is not None:
    return trace.text
  return ''.join(
    piece
    for piece, masked in zip(trace.frames[-1], trace.is_masked[-1])
    if not masked
  )


def trace_html(traces: Sequence[Trace], title: str = 'Denoising trace') -> str:
  """Returns a self-contained page that plays the traces.

  Raises:
    UserError: there are no traces.
  """
  if not traces:
    raise UserError('a page of traces needs at least one trace')
  return page(
    title,
    player(traces, 'page'),
    {'traces': player_data(traces)},
    ['trace.js'],
    ['trace.css'],
  )


def write_trace(
  path: str | os.PathLike,
  traces: Sequence[Trace],
  title: str = 'Denoising trace',
) -> None:
  """Writes the page of `trace_html` to a file, atomically.

  Args:
    path: the file.
    traces: the traces.
    title: heading of the page.
  """
  write(path, trace_html(traces, title))


def show(traces: Sequence[Trace], height: int = 520) -> Any:
  """Returns the player for a notebook cell, an IPython HTML object.

  Args:
    traces: the traces to play.
    height: height in pixels, used if the frame cannot resize itself.
  """
  from IPython.display import HTML

  source = html.escape(trace_html(traces, ''))
  return HTML(
    '<div><iframe title="Denoising trace" allow="clipboard-write" '
    f'style="width:100%;height:{height}px;border:0" srcdoc="{source}">'
    '</iframe></div>'
  )
