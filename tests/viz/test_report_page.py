"""The report, read in a real browser."""

import re

import pytest

from tests.viz import browser as browser_lib
from tests.viz import fakes
from tests.viz.test_report import full
from textdiffusion.viz.report import report_html


@pytest.fixture(scope='module')
def browser():
  with browser_lib.chromium() as running:
    yield running


def test_the_pointer_reads_all_curves_at_one_step(browser, tmp_path):
  with browser_lib.opened(browser, tmp_path / 'r.html', full()) as page:
    readouts = page.locator('.readout')
    assert page.locator('.chart').count() == 5
    rest = readouts.all_inner_texts()
    assert rest and all(text.startswith('step 900') for text in rest)
    plot = page.locator('.plot').first
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box['x'] + box['width'] / 2, box['y'] + 60)
    steps = [
      int(re.match(r'step (\d+)', text)[1])
      for text in readouts.all_inner_texts()
    ]
    assert 350 < steps[0] < 550
    assert steps[1] % 100 == 0
    assert abs(steps[1] - steps[0]) <= 50
    assert steps[2] == steps[3] == steps[4] == steps[0]
    row = next(
      row
      for row in fakes.metrics()
      if row['step'] == steps[0] and 'loss' in row
    )
    read = float(readouts.first.locator('b').inner_text())
    assert read == pytest.approx(row['loss'], rel=1e-3)
    page.mouse.move(1, 1)
    assert readouts.all_inner_texts() == rest


def test_arrow_keys_read_curves(browser, tmp_path):
  with browser_lib.opened(browser, tmp_path / 'r.html', full()) as page:
    page.locator('.plot').nth(1).focus()
    page.keyboard.press('Home')
    page.keyboard.press('ArrowRight')
    told = page.locator('.readout').nth(1).inner_text()
    assert told.startswith('step 200')
    assert '±' in told


def test_the_baseline_and_the_band_are_drawn(browser, tmp_path):
  with browser_lib.opened(browser, tmp_path / 'r.html', full()) as page:
    bound = page.locator('.chart').nth(1)
    assert bound.locator('.band').count() == 1
    names = bound.locator('.rule-name')
    assert names.all_text_contents() == [
      'byte bigram 3.774',
      'token unigram 3.22',
      'token bigram 2.39',
    ]
    boxes = [name.bounding_box() for name in names.all()]
    tops = [box['y'] for box in boxes]
    assert all(b - a > 12 for a, b in zip(tops, tops[1:])), 'names overlap'
    assert page.locator('.chart').first.locator('.band, .rule').count() == 0


def test_space_scrolls_the_report_unless_the_player_is_meant(browser, tmp_path):
  with browser_lib.opened(browser, tmp_path / 'r.html', full()) as page:
    page.keyboard.press('ArrowLeft')
    assert page.locator('#step').input_value() == '32'
    page.focus('#tokens')
    page.keyboard.press('ArrowLeft')
    assert page.locator('#step').input_value() == '31'


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [320, 1000])
def test_it_fits(browser, tmp_path, width, scheme):
  options = {
    'viewport': {'width': width, 'height': 800},
    'color_scheme': scheme,
  }
  path = tmp_path / 'r.html'
  with browser_lib.opened(browser, path, full(), **options) as page:
    for details in page.locator('details').all():
      details.evaluate('node => { node.open = true; }')
    assert page.evaluate('document.documentElement.scrollWidth') <= width


@pytest.mark.parametrize(
  'metrics',
  [
    [],
    [{'step': 1, 'loss': 2.0}],
    [{'step': 5, 'loss': 0.0}, {'step': 9, 'loss': 0.0}],
    [{'step': k, 'lr': 1e-9 * k} for k in range(3)],
  ],
  ids=['none', 'one point', 'flat', 'tiny'],
)
def test_few_or_odd_points_draw(browser, tmp_path, metrics):
  text = report_html('t', metrics, {})
  with browser_lib.opened(browser, tmp_path / 'r.html', text) as page:
    drawn = page.locator('.chart path').evaluate_all(
      "paths => paths.map((path) => path.getAttribute('d'))"
    )
    assert len(drawn) == bool(metrics)
    assert not any('NaN' in path or 'Infinity' in path for path in drawn)
