import dataclasses
import html
import json
import math
import re

import numpy as np
import pytest

from tests.viz import fakes
from textdiffusion.core.types import UserError
from textdiffusion.viz.trace import Trace, show, trace_html, write_trace

# Anything that would make a browser fetch: an address in an attribute or in a
# style. Namespaces of SVG are names, not addresses.
LOADS = re.compile(
  r'(?:src|href|action|poster|data)\s*=\s*["\']?\s*(?:https?:)?//'
  r'|url\(|@import|\bfetch\(|XMLHttpRequest|WebSocket|import\(',
  re.IGNORECASE,
)


def data_of(page: str) -> dict:
  """The traces of a page, found as a browser finds them."""
  found = re.search(
    r'<script type="application/json" id="traces">(.*?)</script>', page, re.S
  )
  assert found is not None
  return json.loads(found[1])


def frames_of(data: dict) -> list[list[tuple[str, bool, int, int | None]]]:
  """[T + 1][L] (piece, is masked, confidence in thousandths, id)."""
  flat = data['first']
  row = [flat[i : i + 2] for i in range(0, len(flat), 2)]
  rows = [row]
  for change in data['changes']:
    row = list(row)
    for i in range(0, len(change), 3):
      row[change[i]] = change[i + 1 : i + 3]
    rows.append(row)
  ids = data.get('ids')
  return [
    [
      (
        data['pieces'][code >> 1],
        bool(code & 1),
        sure,
        ids[code >> 1] if ids else None,
      )
      for code, sure in row
    ]
    for row in rows
  ]


def expected(trace: Trace) -> list:
  return [
    [
      (
        trace.frames[k][i],
        bool(trace.is_masked[k][i]),
        -1
        if trace.is_masked[k][i] or trace.is_given[i]
        else round(1000 * math.exp(trace.log_prob[k][i])),
        trace.ids[k][i] if trace.ids is not None else None,
      )
      for i in range(len(trace.is_given))
    ]
    for k in range(len(trace.times))
  ]


@pytest.mark.parametrize(
  'trace',
  [
    fakes.denoising(title='free'),
    fakes.denoising(given=(0, 1, 2, 9), title='infill'),
    fakes.left_to_right(fakes.TEXT),
    fakes.restless(),
    fakes.denoising(text='one', steps=1),
  ],
  ids=['free', 'infill', 'left to right', 'restless', 'one token'],
)
def test_every_frame_comes_back(trace):
  data = data_of(trace_html([trace]))['traces'][0]
  assert frames_of(data) == expected(trace)
  assert data['times'] == pytest.approx(list(trace.times), abs=1e-6)
  assert data['given'] == [int(given) for given in trace.is_given]
  assert data['title'] == trace.title


def test_text_that_looks_like_markup_comes_back_and_stays_text():
  trace = fakes.denoising(
    text=fakes.HARD, steps=4, title=fakes.HARD, settings={'<i>': fakes.HARD}
  )
  page = trace_html([trace], fakes.HARD)
  data = data_of(page)['traces'][0]
  assert frames_of(data) == expected(trace)
  assert data['settings'] == [['<i>', fakes.HARD]]
  for harm in ('<b>', '<img', '<i>', '<script>document.title'):
    assert harm not in page


def test_arrays_do_as_well_as_lists():
  trace = fakes.restless()
  arrays = dataclasses.replace(
    trace,
    log_prob=np.array(trace.log_prob, np.float32),
    is_masked=np.array(trace.is_masked),
    is_given=np.array(trace.is_given),
    times=np.array(trace.times, np.float32),
    ids=np.arange(20).reshape(5, 4),
  )
  data = data_of(trace_html([arrays]))['traces'][0]
  assert [[cell[0] for cell in row] for row in frames_of(data)] == trace.frames


def test_a_confidence_that_is_not_known_is_none():
  trace = fakes.restless()
  trace = dataclasses.replace(trace, log_prob=[[math.nan] * 4] * 5)
  data = data_of(trace_html([trace]))['traces'][0]
  cells = [cell for row in frames_of(data) for cell in row]
  assert len(cells) == 5 * 4
  assert all(cell[2] == -1 for cell in cells)


def test_only_what_changes_is_stored():
  """1,000 steps over 500 tokens: full frames would be megabytes."""
  trace = fakes.denoising(text='word ' * 500, steps=1000)
  tokens = len(trace.is_given)
  changes = data_of(trace_html([trace]))['traces'][0]['changes']
  assert sum(map(len, changes)) == 3 * tokens
  assert len(trace_html([trace])) < 120_000


@pytest.mark.parametrize('name', ['frames', 'log_prob', 'is_masked', 'ids'])
def test_frames_of_other_sizes_are_refused(name):
  trace = dataclasses.replace(
    fakes.restless(), ids=[[1, 2, 3, 4] for _ in range(5)]
  )
  rows = [list(row) for row in getattr(trace, name)]
  with pytest.raises(UserError, match=rf'5 times has 4 rows in {name}'):
    dataclasses.replace(trace, **{name: rows[:-1]})
  with pytest.raises(UserError, match=rf'4 tokens has 3 in {name}\[2\]'):
    dataclasses.replace(trace, **{name: [*rows[:2], rows[2][1:], *rows[3:]]})


def test_other_mistakes_are_named():
  with pytest.raises(UserError, match='at least one frame'):
    Trace([], [], [], [], [])
  with pytest.raises(UserError, match=r'times\[4\]=nan'):
    dataclasses.replace(fakes.restless(), times=[1, 0.7, 0.4, 0.2, math.nan])
  with pytest.raises(UserError, match='at least one trace'):
    trace_html([])


def test_the_page_asks_for_nothing():
  page = trace_html([fakes.denoising(), fakes.restless()])
  assert not LOADS.findall(page)
  assert "default-src 'none'" in page
  # The only address is the name of SVG.
  addresses = set(re.findall(r'https?://[^\s"\'<>]+', page))
  assert addresses == {'http://www.w3.org/2000/svg'}


def test_without_scripts_the_final_text_is_there():
  page = trace_html([fakes.denoising()])
  shown = re.search(r'<noscript>.*?<pre>(.*?)</pre>', page, re.S)
  assert shown is not None
  assert html.unescape(shown[1]) == '\n' + fakes.TEXT


def test_the_final_text_may_be_the_tokenizers():
  trace = dataclasses.replace(fakes.restless(), text='Ünser')
  assert data_of(trace_html([trace]))['traces'][0]['text'] == 'Ünser'


def test_a_page_is_written_whole(tmp_path):
  path = tmp_path / 'new' / 'trace.html'
  traces = [fakes.restless()]
  write_trace(path, traces, 'named')
  assert path.read_text(encoding='utf-8') == trace_html(traces, 'named')
  assert len(list(path.parent.iterdir())) == 1


def test_a_notebook_embeds_the_page(recwarn):
  pytest.importorskip('IPython')
  traces = [fakes.denoising(text=fakes.HARD)]
  shown = show(traces, height=300)
  source = re.search(r'srcdoc="([^"]*)"', shown.data)
  assert source is not None
  assert html.unescape(source[1]) == trace_html(traces, '')
  assert 'height:300px' in shown.data
  assert not recwarn.list
