import html
import json
import re

import pytest

from tests.viz import fakes
from tests.viz.test_trace import LOADS, data_of
from textdiffusion.core.types import UserError
from textdiffusion.viz.report import (
  MAX_POINTS,
  Answer,
  Edit,
  Figure,
  Infill,
  report_html,
  smoothed,
  thinned,
)

SETTINGS = {
  'type': 'textdiffusion.config.Config',
  'method': {
    'type': 'textdiffusion.methods.mdlm.MDLM',
    'schedule': {'type': 'textdiffusion.schedules.noise.Linear', 'eps': 0.0},
  },
  'data': {'type': 'a.DataConfig', 'specials': ['bos', 'eos'], 'path': ''},
  'train': {'resume': True, 'steps': 900, 'dtype': None},
}


EDIT = (
  [('The ', False), ('<old>', True), (' pub', False)],
  [('The ', False), ('new', True), (' pub', False)],
)
RULES = [
  ('token bigram', 2.39),
  ('token unigram', 3.22),
  ('byte bigram', 3.774),
]


def full(**fields) -> str:
  return report_html(
    'A run',
    fakes.metrics(),
    {'bits per byte': Figure('2.90', '−0.87'), 'steps': 1200, 'loss': 3.14159},
    [fakes.TEXT, '\n  indented'],
    [Infill([('The ', False), ('<with>', True), (' statement', False)])],
    SETTINGS,
    {'jax': '0.10.2'},
    [fakes.denoising(), fakes.restless()],
    {'eval/bits_per_byte': RULES},
    **fields,
  )


def curves_of(page: str) -> dict[str, dict]:
  found = re.search(
    r'<script type="application/json" id="metrics">(.*?)</script>', page, re.S
  )
  return {c['title']: c for c in json.loads(found[1])} if found else {}


def test_curves_hold_the_metrics():
  curves = curves_of(full())
  assert list(curves) == [
    'Training loss',
    'Held-out bound',
    'Learning rate',
    'Gradient norm',
    'Speed',
  ]
  rows = [row for row in fakes.metrics() if 'loss' in row]
  points = curves['Training loss']['points']
  assert [p[0] for p in points] == [row['step'] for row in rows]
  assert [p[1] for p in points] == pytest.approx([r['loss'] for r in rows])
  assert len(curves['Gradient norm']['points']) == len(rows) - 1
  bound = curves['Held-out bound']
  assert bound['rules'] == [
    ['byte bigram', 3.774],
    ['token unigram', 3.22],
    ['token bigram', 2.39],
  ]
  assert curves['Speed']['rules'] == []
  assert [p[2] for p in bound['points']] == [0.03] * 9


def test_absent_keys_and_odd_values_are_left_out():
  rows = [
    {'step': 1, 'loss': float('nan'), 'lr': None},
    {'step': 2, 'loss': float('inf'), 'grad_norm': 'big'},
    {'loss': 1.0},
    {'step': 3, 'loss': 2.5, 'skipped': 2},
  ]
  page = report_html('t', rows, {})
  curves = curves_of(page)
  assert list(curves) == ['Training loss']
  assert curves['Training loss']['points'] == [[3, 2.5, 0, None]]
  assert '2 updates were skipped' in page


def test_an_empty_report_is_a_page():
  page = report_html('Nothing yet', [], {})
  assert '<h1>Nothing yet</h1>' in page
  assert '<h2' not in page
  assert 'id="charts"' not in page


def test_smoothing_keeps_a_constant_and_follows_a_line():
  assert smoothed([2.0] * 50) == pytest.approx([2.0] * 50)
  line = smoothed([float(i) for i in range(300)])
  assert line[0] == 0
  assert 285 < line[-1] < 299
  assert smoothed([]) == []


def test_thinning_keeps_the_peaks_and_the_ends():
  values = [0.0] * 100_000
  values[31_234], values[77_777] = 9.0, -9.0
  kept = thinned(values)
  assert len(kept) <= MAX_POINTS
  assert {0, 31_234, 77_777, 99_999} <= set(kept)
  assert kept == sorted(set(kept))
  assert thinned([1.0, 2.0]) == [0, 1]


def test_a_long_run_makes_a_small_page():
  rows = [{'step': i, 'loss': 1 / i} for i in range(1, 50_000)]
  page = report_html('t', rows, {})
  assert len(page) < 120_000
  assert curves_of(page)['Training loss']['points'][-1][0] == 49_999


def test_figures_read_well():
  page = full()
  assert '<dd>2.90</dd><dd class="note">−0.87</dd>' in page
  assert '<dd>1,200</dd>' in page
  assert '<dd>3.142</dd>' in page


def test_what_was_filled_in_is_marked():
  assert '<pre>\nThe <mark>&lt;with&gt;</mark> statement</pre>' in full()


def test_edits_show_what_was_taken_out_and_what_is_new():
  page = report_html('t', [], {}, edits=[Edit('<30%>', *EDIT)])
  assert (
    '<pre>\nThe <del>&lt;old&gt;</del> pub\nThe <mark>new</mark> pub<' in page
  )
  assert '<figcaption>&lt;30%&gt;</figcaption>' in page
  assert '<h2 id="editing">' in page and '<h2 id="answering">' not in page


def test_answers_stand_below_their_source():
  page = report_html('t', [], {}, answers=[Answer('a=<b>', 'c', 'd')])
  assert '<figcaption>a=&lt;b&gt;</figcaption><pre>\n<mark>c</mark>\nd<' in page
  assert '<h2 id="answering">' in page
  alone = report_html('t', [], {}, answers=[Answer('a', 'c')])
  assert '<mark>c</mark></pre>' in alone


def test_samples_keep_their_lines():
  page = full()
  assert f'<pre>\n{html.escape(fakes.TEXT)}</pre>' in page
  assert '<pre>\n\n  indented</pre>' in page
  assert '3 more' in report_html('t', [], {}, ['a'] * 7)


def test_settings_are_grouped_and_readable():
  page = full()
  for row in (
    '<tr><td>schedule</td><td>Linear</td></tr>',
    '<tr><td>schedule.eps</td><td>0.0</td></tr>',
    '<tr><td>specials</td><td>bos, eos</td></tr>',
    '<tr><td>path</td><td>–</td></tr>',
    '<tr><td>resume</td><td>yes</td></tr>',
    '<tr><td>steps</td><td>900</td></tr>',
    '<tr><td>dtype</td><td>–</td></tr>',
    '<tr><td>jax</td><td>0.10.2</td></tr>',
  ):
    assert row in page
  assert 'method <small>MDLM</small>' in page


def test_traces_are_embedded():
  data = data_of(full())
  assert len(data['traces']) == 2


def test_the_report_asks_for_nothing():
  assert not LOADS.findall(full())


def test_text_that_looks_like_markup_stays_text():
  hard = fakes.HARD
  page = report_html(
    hard,
    [{'step': 1, 'loss': 1.0}],
    {hard: Figure(hard, hard)},
    [hard],
    [Infill([(hard, True), (hard, False)])],
    {hard: {'type': hard, hard: hard}},
    {hard: hard},
    [fakes.denoising(text=hard, title=hard)],
    {'loss': [(hard, 1.0)]},
    {hard: 'metrics.jsonl'},
    [Edit(hard, [(hard, True), (hard, False)], [(hard, True)])],
    [Answer(hard, hard, hard)],
  )
  for harm in ('<b>', '<img', '<script>document.title', '\u202e'):
    assert harm not in page


def test_links_lead_to_files_and_pages_only():
  page = full(links={'log': 'metrics.jsonl', 'code': 'https://example.org/x'})
  assert '<a class="out" href="metrics.jsonl">log</a>' in page
  for address in ('javascript:alert(1)', 'data:text/html,x', ' jaVascript:x'):
    with pytest.raises(UserError, match="link 'log'"):
      full(links={'log': address})
