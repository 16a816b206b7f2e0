"""A training report: figures, curves, samples, infilling, settings."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from textdiffusion.viz.page import page
from textdiffusion.viz.trace import Trace, player, to_json


class Infill(NamedTuple):
  """A filled-in template: (text, whether it was filled in) in order."""

  parts: Sequence[tuple[str, bool]]


class Chart(NamedTuple):
  """A curve of the metrics.

  error: the key of its standard error, drawn as a band of two.
  rule: (name, value) of a horizontal line to compare with.
  """

  title: str
  key: str
  error: str = ''
  rule: tuple[str, float] | None = None
  smooth: bool = False


def report_html(
  title: str,
  metrics: Sequence[Mapping[str, Any]],
  summary: Mapping[str, str],
  samples: Sequence[str] = (),
  infills: Sequence[Infill] = (),
  settings: Mapping[str, Any] | None = None,
  environment: Mapping[str, str] | None = None,
  traces: Sequence[Trace] = (),
  rules: Mapping[str, tuple[str, float]] | None = None,
) -> str:
  """A self-contained page.

  Args:
    title: of the run.
    metrics: rows of metrics.jsonl.
    summary: name -> figure, as they are to be read.
    samples: texts.
    infills: filled-in templates.
    settings: the config as nested JSON.
    environment: versions, devices.
    traces: samples to play.
    rules: metric -> (name, value), lines to compare a curve with.
  """
  rules = rules or {}
  charts = [
    Chart('Training loss, nats per token', 'loss', smooth=True),
    Chart(
      'Held-out bits per byte',
      'eval/bits_per_byte',
      'eval/bits_per_byte_se',
      rules.get('eval/bits_per_byte'),
    ),
    Chart('Tokens per second', 'tokens_per_s'),
    Chart('Gradient norm', 'grad_norm'),
    Chart('Learning rate', 'lr'),
  ]
  curves = [_curve(chart, metrics) for chart in charts]
  body = [_figures(summary)]
  body.append('<h2>Curves</h2><section class="charts" id="charts"></section>')
  if traces:
    body.append(f'<h2>Watch it write</h2>{player()}')
  if infills:
    body.append('<h2>Filling in</h2>')
    body += [_card(_marked(infill)) for infill in infills]
  if samples:
    body.append('<h2>Samples</h2>')
    body += [_card(html.escape(text)) for text in samples]
  for name, tree in (('Settings', settings), ('Environment', environment)):
    if tree:
      body.append(_table(name, _flat(tree)))
  data = {
    'curves': [curve for curve in curves if curve['points']],
    'traces': [to_json(trace) for trace in traces],
  }
  scripts = ['report.js', *(['trace.js'] if traces else [])]
  return page(title, ''.join(body), data, scripts)


def _curve(chart: Chart, metrics: Sequence[Mapping[str, Any]]) -> dict:
  """What report.js draws: points [step, value, standard error]."""
  points = [
    [row['step'], row[chart.key], row.get(chart.error) or 0]
    for row in metrics
    if row.get(chart.key) is not None
  ]
  return {
    'title': chart.title,
    'points': points,
    'smooth': chart.smooth,
    'rule': chart.rule,
  }


def _figures(summary: Mapping[str, str]) -> str:
  cells = ''.join(
    f'<div class="figure"><b>{html.escape(str(value))}</b>'
    f'<span>{html.escape(name)}</span></div>'
    for name, value in summary.items()
  )
  return f'<section class="figures">{cells}</section>'


def _card(inner: str) -> str:
  return f'<div class="card"><pre class="sample">{inner}</pre></div>'


def _marked(infill: Infill) -> str:
  return ''.join(
    f'<mark>{html.escape(text)}</mark>' if is_filled else html.escape(text)
    for text, is_filled in infill.parts
  )


def _table(name: str, rows: Sequence[tuple[str, str]]) -> str:
  cells = ''.join(
    f'<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>'
    for key, value in rows
  )
  return (
    f'<h2>{name}</h2><div class="card"><details><summary>{len(rows)} entries'
    f'</summary><table>{cells}</table></details></div>'
  )


def _flat(tree: Any, name: str = '') -> list[tuple[str, str]]:
  """Nested JSON -> (dotted name, value)."""
  if not isinstance(tree, Mapping):
    return [(name, str(tree))]
  rows = []
  for key, value in tree.items():
    if key == 'type' and name:
      rows.append((name, str(value).rpartition('.')[2]))
    elif key != 'type':
      rows += _flat(value, f'{name}.{key}' if name else key)
  return rows
