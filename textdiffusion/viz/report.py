"""The HTML report of a run: figures, curves, samples, infilling, settings."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from textdiffusion.core.types import UserError
from textdiffusion.viz.page import escape, page
from textdiffusion.viz.trace import Trace, player, player_data

# Largest number of points per curve in the page, more than a screen can show.
MAX_POINTS = 1200


class Infill(NamedTuple):
  """A filled-in template.

  Attributes:
    parts: (text, whether the model filled it in), in order.
  """

  parts: Sequence[tuple[str, bool]]


class Edit(NamedTuple):
  """A text before and after an edit.

  Attributes:
    title: name of the edit.
    before: (text, whether it was removed), in order.
    after: (text, whether it is new), in order.
  """

  title: str
  before: Sequence[tuple[str, bool]]
  after: Sequence[tuple[str, bool]]


class Answer(NamedTuple):
  """An answer to a source.

  Attributes:
    source: the source text.
    text: the model's answer.
    reference: an answer from the corpus, '' if there is none.
  """

  source: str
  text: str
  reference: str = ''


class Figure(NamedTuple):
  """A headline figure.

  Attributes:
    value: the figure as displayed.
    note: a remark below it.
  """

  value: str
  note: str = ''


class Chart(NamedTuple):
  """A chart of one metric.

  Attributes:
    title: heading of the chart.
    key: key of the metric in metrics.jsonl.
    unit: unit of the metric.
    error: key of its standard error, drawn as a band of two errors either way.
    is_smoothed: whether a running mean is drawn on top.
    is_wide: whether the chart is in the first row, which is larger.
  """

  title: str
  key: str
  unit: str = ''
  error: str = ''
  is_smoothed: bool = False
  is_wide: bool = False


CHARTS = (
  Chart('Training loss', 'loss', 'nats per token', '', True, True),
  Chart(
    'Held-out bound',
    'eval/bits_per_byte',
    'bits per byte',
    'eval/bits_per_byte_se',
    is_wide=True,
  ),
  Chart('Learning rate', 'lr'),
  Chart('Gradient norm', 'grad_norm', is_smoothed=True),
  Chart('Speed', 'tokens_per_s', 'tokens per second'),
)


def report_html(
  title: str,
  metrics: Sequence[Mapping[str, object]],
  summary: Mapping[str, object],
  samples: Sequence[str] = (),
  infills: Sequence[Infill] = (),
  settings: Mapping[str, object] | None = None,
  environment: Mapping[str, object] | None = None,
  traces: Sequence[Trace] = (),
  rules: Mapping[str, Sequence[tuple[str, float]]] | None = None,
  links: Mapping[str, str] | None = None,
  edits: Sequence[Edit] = (),
  answers: Sequence[Answer] = (),
) -> str:
  """Returns the report as a self-contained page, without empty sections.

  Args:
    title: name of the run.
    metrics: rows of metrics.jsonl; missing keys and nulls are skipped.
    summary: headline figures by name, each a `Figure`, a text or a number.
    samples: sampled texts.
    infills: filled-in templates.
    settings: the config as nested JSON.
    environment: versions and devices.
    traces: traces to play.
    rules: for each metric, (name, value) of horizontal lines in its chart.
    links: addresses by name, relative or http(s).
    edits: edited texts.
    answers: answered sources.

  Raises:
    UserError: a link has another scheme than http or https.
  """
  curves = _curves(metrics, rules or {})
  sections = [
    ('curves', 'Curves', _charts(curves) + _skipped(metrics)),
    ('watch', 'Watch it write', player(traces) if traces else ''),
    ('samples', 'Samples', _samples(samples)),
    ('infilling', 'Filling in', _infills(infills)),
    ('editing', 'Editing', _edits(edits)),
    ('answering', 'Answering', _answers(answers)),
    ('settings', 'Settings', _tables(settings or {})),
    ('environment', 'Environment', _tables(environment or {})),
  ]
  shown = [section for section in sections if section[2]]
  jumps = ''.join(f'<a href="#{name}">{head}</a>' for name, head, _ in shown)
  jumps += ''.join(_link(name, to) for name, to in (links or {}).items())
  body = f'<nav class="jumps" aria-label="Contents">{jumps}</nav>'
  body += _figures(summary)
  body += '\n'.join(
    f'<h2 id="{name}">{head}</h2>\n{inner}' for name, head, inner in shown
  )
  data: dict[str, object] = {}
  scripts = []
  if curves:
    data['metrics'] = curves
    scripts.append('report.js')
  if traces:
    data['traces'] = player_data(traces)
    scripts.append('trace.js')
  styles = ['report.css', *(['trace.css'] if traces else [])]
  return page(title, body, data, scripts, styles)


def _number(value: Any) -> float | None:
  """Returns the value if it is a finite number, else None."""
  if isinstance(value, bool) or not hasattr(value, '__float__'):
    return None
  number = float(value)
  return number if math.isfinite(number) else None


def _curves(
  metrics: Sequence[Mapping[str, object]],
  rules: Mapping[str, Sequence[tuple[str, float]]],
) -> Sequence[Mapping[str, object]]:
  """Returns the data of report.js, one entry for each chart that has points.

  A point is [step, value, standard error or 0, smoothed value or null].
  """
  curves = []
  for chart in CHARTS:
    points = sorted(
      (step, value, _number(row.get(chart.error)) or 0.0)
      for row in metrics
      if (step := _number(row.get('step'))) is not None
      and (value := _number(row.get(chart.key))) is not None
    )
    if not points:
      continue
    means = smoothed([value for _, value, _ in points])
    is_smoothed = chart.is_smoothed and len(points) >= 10
    curves.append(
      {
        'title': chart.title,
        'unit': chart.unit,
        'wide': chart.is_wide,
        'rules': sorted(rules.get(chart.key, ()), key=lambda rule: -rule[1]),
        'points': [
          [*map(_short, points[i]), _short(means[i]) if is_smoothed else None]
          for i in thinned([value for _, value, _ in points])
        ],
      }
    )
  return curves


def _short(value: float) -> float:
  """Rounds to seven digits, more than a screen can show."""
  return float(f'{value:.7g}') if value % 1 else int(value)


def smoothed(values: Sequence[float]) -> list[float]:
  """Returns an exponential running mean, corrected for its start at 0.

  It averages over about a thirtieth of the curve.
  """
  decay = 1 - 1 / max(len(values) / 30, 4)
  means, total, weight = [], 0.0, 0.0
  for value in values:
    total = decay * total + (1 - decay) * value
    weight = decay * weight + (1 - decay)
    means.append(total / weight)
  return means


def thinned(values: Sequence[float], limit: int = MAX_POINTS) -> list[int]:
  """Returns indices of at most `limit` values that keep the curve's shape.

  They are the first and the last value, and the minimum and the maximum of each
  stretch of the curve.
  """
  count = len(values)
  if count <= limit:
    return list(range(count))
  kept = {0, count - 1}
  stretches = (limit - 2) // 2
  for k in range(stretches):
    stretch = range(k * count // stretches, (k + 1) * count // stretches)
    kept |= {min(stretch, key=values.__getitem__)}
    kept |= {max(stretch, key=values.__getitem__)}
  return sorted(kept)


def _charts(curves: Sequence[Mapping[str, object]]) -> str:
  if not curves:
    return ''
  return '<section class="charts" id="charts"></section>'


def _skipped(metrics: Sequence[Mapping[str, object]]) -> str:
  """Returns a remark on the number of skipped updates, '' if it is 0."""
  counts = [_number(row.get('skipped')) for row in metrics]
  skipped = int(max((count for count in counts if count), default=0))
  if not skipped:
    return ''
  verb = 'update was' if skipped == 1 else 'updates were'
  return (
    f'<p class="remark">{skipped:,} {verb} skipped: the loss or its '
    'gradient was not finite.</p>'
  )


def _figures(summary: Mapping[str, object]) -> str:
  cells = ''
  for name, given in summary.items():
    figure = given if isinstance(given, Figure) else Figure(_in_words(given))
    note = f'<dd class="note">{escape(figure.note)}</dd>' if figure.note else ''
    cells += (
      f'<div class="figure"><dt>{escape(name)}</dt>'
      f'<dd>{escape(_in_words(figure.value))}</dd>{note}</div>'
    )
  return f'<dl class="figures">{cells}</dl>\n' if cells else ''


def _in_words(value: object) -> str:
  """Formats a number for display; anything else becomes text."""
  number = _number(value)
  if number is None or isinstance(value, str):
    return str(value)
  return f'{number:,.0f}' if number % 1 == 0 else f'{number:,.4g}'


def _infills(infills: Sequence[Infill]) -> str:
  if not infills:
    return ''
  cards = ''.join(_card(_marked(infill.parts, 'mark')) for infill in infills)
  return (
    f'<p class="remark">The text was given; <mark>what is marked</mark> is the '
    f'model’s.</p><div class="texts">{cards}</div>'
  )


def _edits(edits: Sequence[Edit]) -> str:
  if not edits:
    return ''
  cards = ''.join(
    _card(
      f'{_marked(edit.before, "del")}\n{_marked(edit.after, "mark")}',
      escape(edit.title),
    )
    for edit in edits
  )
  return (
    '<p class="remark">Some words of a held-out text were masked (<del>struck '
    'out</del>) and <mark>written again</mark>.</p>'
    f'<div class="texts">{cards}</div>'
  )


def _answers(answers: Sequence[Answer]) -> str:
  if not answers:
    return ''
  cards = ''
  for answer in answers:
    body = f'<mark>{escape(answer.text)}</mark>'
    if answer.reference:
      body += f'\n{escape(answer.reference)}'
    cards += _card(body, escape(answer.source))
  return (
    '<p class="remark">For each held-out source, <mark>the model’s text</mark> '
    'and below it one of the corpus.</p>'
    f'<div class="texts">{cards}</div>'
  )


def _marked(parts: Sequence[tuple[str, bool]], tag: str) -> str:
  """Joins parts to HTML, with flagged parts in an element of type `tag`.

  Whitespace at the ends of a flagged part stays outside the element.
  """
  body = ''
  for text, is_flagged in parts:
    inner = text.strip()
    start = text.index(inner)
    before, after = text[:start], text[start + len(inner) :]
    if is_flagged and inner:
      body += f'{before}<{tag}>{escape(inner)}</{tag}>{after}'
    else:
      body += escape(text)
  return body


def _samples(samples: Sequence[str], shown: int = 4) -> str:
  if not samples:
    return ''
  cards = [
    _card(escape(text), f'sample {i + 1}') for i, text in enumerate(samples)
  ]
  body = f'<div class="texts">{"".join(cards[:shown])}</div>'
  if cards[shown:]:
    body += (
      f'<details class="more"><summary>{len(cards) - shown} more</summary>'
      f'<div class="texts">{"".join(cards[shown:])}</div></details>'
    )
  return body


def _card(inner: str, name: str = '') -> str:
  # HTML parsers drop one newline after <pre>, so one is added here.
  label = f'<figcaption>{name}</figcaption>' if name else ''
  return f'<figure class="card">{label}<pre>\n{inner}</pre></figure>'


def _tables(tree: Mapping[str, object]) -> str:
  """Returns one table, in which a nested mapping is a group of rows."""
  if not tree:
    return ''
  groups: list[tuple[str, str, list[tuple[str, str]]]] = []
  single = [
    (str(key), _shown(value))
    for key, value in tree.items()
    if not isinstance(value, Mapping) and key != 'type'
  ]
  if single:
    groups.append(('', '', single))
  for key, value in tree.items():
    if isinstance(value, Mapping):
      groups.append((str(key), _type_of(value), _flat(value)))
  rows = ''
  for name, kind, entries in groups:
    if name:
      rows += (
        f'<tr><th colspan="2" scope="colgroup">{escape(name)} '
        f'<small>{escape(kind)}</small></th></tr>'
      )
    rows += ''.join(
      f'<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>'
      for key, value in entries
    )
  count = sum(len(entries) for _, _, entries in groups)
  noun = 'entry' if count == 1 else 'entries'
  return (
    f'<details class="card"><summary>{count} {noun}</summary>'
    f'<table>{rows}</table></details>'
  )


def _type_of(tree: Mapping[str, object]) -> str:
  return str(tree.get('type', '')).rpartition('.')[2]


def _flat(tree: Mapping[str, object], name: str = '') -> list[tuple[str, str]]:
  """Flattens nested JSON to (dotted name, value).

  The `type` of a mapping becomes the value of the mapping's own name.
  """
  rows = []
  for key, value in tree.items():
    path = f'{name}.{key}' if name else str(key)
    if isinstance(value, Mapping):
      if kind := _type_of(value):
        rows.append((path, kind))
      rows += _flat(value, path)
    elif key != 'type':
      rows.append((path, _shown(value)))
  return rows


def _shown(value: object) -> str:
  if isinstance(value, (list, tuple)):
    return ', '.join(map(_shown, value)) or '–'
  if value is None or value == '':
    return '–'
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  return str(value)


def _link(name: str, address: str) -> str:
  # Browsers ignore whitespace and control characters in an address.
  scheme = re.match(r'([^/?#]*?):', re.sub(r'[\x00-\x20]', '', address))
  if scheme and scheme[1].lower() not in ('http', 'https'):
    raise UserError(
      f'the link {name!r} of a report goes to {address!r}: give a relative '
      'address or one of https://'
    )
  return f'<a class="out" href="{escape(address)}">{escape(name)}</a>'
