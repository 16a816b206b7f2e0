"""The player, driven in a real browser."""

import re

import pytest

from tests.viz import browser as browser_lib
from tests.viz import fakes
from textdiffusion.viz.trace import show, trace_html


@pytest.fixture(scope='module')
def browser():
  with browser_lib.chromium() as running:
    yield running


@pytest.fixture
def open_page(browser, tmp_path):
  def open_page(traces, **options):
    text = trace_html(traces)
    return browser_lib.opened(browser, tmp_path / 'a.html', text, **options)

  return open_page


# Colours are what they are at once.
STILL = {'reduced_motion': 'reduce'}

# What is read where each token is: None for a mask.
READ = """() => [...document.querySelectorAll('.token')].map((token) =>
  token.classList.contains('masked') ? null : token.textContent)"""

# The least contrast of a text with what is painted behind it.
CONTRAST = """() => {
  const options = { willReadFrequently: true };
  const probe = document.createElement('canvas').getContext('2d', options);
  const paint = (colours) => {
    for (const colour of colours) {
      probe.fillStyle = colour;
      probe.fillRect(0, 0, 1, 1);
    }
    return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (c) =>
    c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const luminance = (rgb) => rgb.map((c) => linear(c / 255))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const style = (node) => getComputedStyle(node);
  const all = (selector) => [...document.querySelectorAll(selector)];
  const card = style(document.getElementById('tokens')).backgroundColor;
  const page = style(document.body).backgroundColor;
  const pairs = [
    ...all('.token:not(.masked)').map((token) =>
      [style(token).color, [card, style(token).backgroundColor]]),
    ...all('#status span, .settings span, .legend > span').map((node) =>
      [style(node).color, [page]]),
  ];
  return Math.min(...pairs.map(([ink, ground]) => {
    const lights = [[...ground, ink], ground].map((c) => luminance(paint(c)));
    return (Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05);
  }));
}"""


def shown(trace, step):
  return [
    None if masked else piece
    for piece, masked in zip(trace.frames[step], trace.is_masked[step])
  ]


def expect(locator):
  """Waits for what is expected of a locator."""
  from playwright.sync_api import expect

  return expect(locator)


def go(page, step):
  page.locator('#step').fill(str(step))


def status(page) -> dict[str, str]:
  facts = page.locator('#status span').all_inner_texts()
  return dict(
    re.fullmatch(r'(.+?) ([\d. of]+)', fact).groups() for fact in facts
  )


def colours(page):
  """The background of each token."""
  return page.locator('.token').evaluate_all(
    'tokens => tokens.map((t) => getComputedStyle(t).backgroundColor)'
  )


@pytest.mark.parametrize(
  'trace',
  [
    fakes.denoising(steps=9),
    fakes.denoising(steps=5, given=(3, 4, 5)),
    fakes.left_to_right('The cat sat\non the mat.\n'),
    fakes.restless(),
  ],
  ids=['free', 'infill', 'left to right', 'restless'],
)
def test_the_slider_shows_each_step(open_page, trace):
  last = len(trace.times) - 1
  with open_page([trace]) as page:
    assert page.evaluate(READ) == shown(trace, last)
    for step in range(last + 1):
      go(page, step)
      assert page.evaluate(READ) == shown(trace, step)
      told = status(page)
      assert told['step'] == f'{step} of {last}'
      assert told['masked'] == str(sum(trace.is_masked[step]))
      assert float(told['t']) == pytest.approx(trace.times[step], abs=6e-4)


def test_changes_and_new_masks_are_counted(open_page):
  with open_page([fakes.restless()]) as page:
    told = []
    for step in range(5):
      go(page, step)
      facts = status(page)
      told.append(
        [facts.get(key, '0') for key in ('drawn', 'changed', 'masked again')]
      )
    assert told == [
      ['0', '0', '0'],
      ['1', '0', '0'],
      ['3', '2', '0'],
      ['0', '0', '1'],
      ['2', '1', '0'],
    ]


def test_the_future_cannot_be_read_in_a_mask(open_page):
  trace = fakes.denoising(text='secret words 42 密 stay hidden', steps=4)
  with open_page([trace]) as page:
    go(page, 0)
    assert not re.search('[a-wyz1-9密]', page.locator('#tokens').inner_text())
    hidden = page.locator('.token.masked')
    assert hidden.count() == len(trace.is_given)
    assert hidden.first.get_attribute('aria-hidden') == 'true'


def test_the_text_does_not_jump(open_page):
  trace = fakes.denoising()
  places = """() => [...document.querySelectorAll('.token')].map((token) => {
    const area = token.getClientRects()[0];
    return [Math.round(area.left), Math.round(area.top)];
  })"""
  with open_page([trace], viewport={'width': 420, 'height': 900}) as page:
    final = page.evaluate(places)
    for step in (0, 9, 20):
      go(page, step)
      assert page.evaluate(places) == final


def test_play_runs_to_the_end(open_page):
  trace = fakes.denoising()
  with open_page([trace]) as page:
    page.select_option('#speed', '4')
    page.click('#play')
    assert page.locator('#play').get_attribute('aria-label') == 'Pause'
    expect(page.locator('#step')).not_to_have_value('0')
    assert None in page.evaluate(READ)
    expect(page.locator('#step')).to_have_value('32')
    assert page.locator('#play').get_attribute('aria-label') == 'Play'
    assert page.evaluate(READ) == shown(trace, 32)


def test_pause_holds(open_page):
  with open_page([fakes.denoising()]) as page:
    page.click('#play')
    expect(page.locator('#step')).not_to_have_value('0')
    page.click('#play')
    step = page.locator('#step').input_value()
    page.wait_for_timeout(400)
    assert page.locator('#step').input_value() == step


def test_keys(open_page):
  with open_page([fakes.denoising()]) as page:
    step = page.locator('#step')
    page.keyboard.press('Home')
    assert step.input_value() == '0'
    page.keyboard.press('ArrowRight')
    page.keyboard.press('ArrowRight')
    page.keyboard.press('ArrowLeft')
    assert step.input_value() == '1'
    page.keyboard.press('End')
    assert step.input_value() == '32'
    page.keyboard.press('Space')
    expect(step).not_to_have_value('32')
    page.keyboard.press('Space')
    assert page.locator('#play').get_attribute('aria-label') == 'Play'
    step.focus()
    at = int(step.input_value())
    page.keyboard.press('ArrowRight')
    assert int(step.input_value()) == at + 1
    # On a button, space presses it, once.
    page.focus('#first')
    page.keyboard.press('Space')
    assert step.input_value() == '0'


def test_buttons(open_page):
  with open_page([fakes.denoising()]) as page:
    for name, step in (('first', 0), ('next', 1), ('last', 32), ('back', 31)):
      page.click(f'#{name}')
      assert page.locator('#step').input_value() == str(step)


def test_given_tokens_and_spans_are_marked(open_page):
  trace = fakes.denoising(given=(0, 1, 2, 6, 7))
  count = len(trace.is_given)
  classes = lambda page, name: [
    int(place)
    for place in page.locator(f'.token.{name}').evaluate_all(
      'tokens => tokens.map((token) => token.dataset.place)'
    )
  ]
  with open_page([trace]) as page:
    for step in (0, 32):
      go(page, step)
      assert classes(page, 'given') == [0, 1, 2, 6, 7]
      assert classes(page, 'first') == [3, 8]
      assert classes(page, 'last') == [5, count - 1]
    assert 'given' in page.locator('.legend').inner_text()
  with open_page([fakes.denoising()]) as page:
    assert classes(page, 'first') == []
    assert 'given' not in page.locator('.legend').inner_text()


def test_colours(open_page):
  trace = fakes.denoising(
    given=(0,), steps=6, text='one two three four five six seven eight'
  )
  with open_page([trace], **STILL) as page:
    by_step = colours(page)
    assert len(set(by_step[1:])) > 2
    page.locator('input[value=confidence]').check(force=True)
    by_confidence = colours(page)
    assert by_confidence[1:] != by_step[1:]
    assert '100 %' in page.locator('.legend').inner_text()
    page.locator('input[value=none]').check(force=True)
    plain = colours(page)
    assert set(plain) == {'rgba(0, 0, 0, 0)', 'oklab(0 0 0 / 0)'}  # clear
    assert by_step[0] == by_confidence[0]  # what was given has no colour
    go(page, 0)
    assert colours(page)[1] != plain[1]  # masks are grey in every mode


@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_contrast(open_page, scheme):
  """Every text on every tint: at least 4.5 to 1 (WCAG AA)."""
  options = {'color_scheme': scheme, **STILL}
  with open_page([fakes.denoising()], **options) as page:
    for mode in ('step', 'confidence', 'none'):
      page.locator(f'input[value={mode}]').check(force=True)
      assert page.evaluate(CONTRAST) > 4.5, mode


def test_a_token_tells_its_step_confidence_and_id(open_page):
  trace = fakes.denoising()
  place = 4
  born = next(k for k in range(33) if not trace.is_masked[k][place])
  with open_page([trace]) as page:
    page.locator('.token').nth(place).hover()
    told = page.locator('#tip').inner_text()
    assert f'step {born}' in told
    assert f'id {trace.ids[-1][place]}' in told
    assert '%' in told
    assert trace.frames[-1][place] in told
    go(page, 0)
    page.locator('.token').nth(place).hover()
    told = page.locator('#tip').inner_text()
    assert 'masked' in told
    assert trace.frames[-1][place] not in told
    page.mouse.move(1, 1)
    assert not page.locator('#tip').is_visible()


def test_a_token_tells_what_stood_there(open_page):
  with open_page([fakes.restless()]) as page:
    page.locator('.token').nth(1).click()
    told = page.locator('#tip').inner_text()
    assert 'before: " dog", step 2' in told
    assert 'before: " cat", from the start' in told


def test_tokens_by_keyboard(open_page):
  with open_page([fakes.restless()]) as page:
    page.focus('#tokens')
    page.keyboard.press('ArrowDown')
    page.keyboard.press('ArrowDown')
    assert '" dog"' in page.locator('#tip').inner_text()
    page.keyboard.press('Escape')
    assert not page.locator('#tip').is_visible()


def test_samples_are_chosen(open_page):
  traces = [fakes.denoising(title='first'), fakes.restless()]
  with open_page(traces) as page:
    page.select_option('#sample', label='restless')
    assert page.evaluate(READ) == shown(traces[1], 4)
    assert 'sampler remask' in page.locator('.settings').inner_text()
    page.select_option('#sample', label='first')
    assert page.evaluate(READ) == shown(traces[0], 32)
  with open_page(traces[:1]) as page:
    assert not page.locator('#sample').is_visible()


def test_markup_in_tokens_is_text(open_page):
  trace = fakes.denoising(
    text=fakes.HARD,
    steps=3,
    title=fakes.HARD,
    settings={'<b>': fakes.HARD},
  )
  with open_page([trace, fakes.restless()]) as page:
    for step in range(4):
      go(page, step)
    page.focus('#tokens')
    for _ in trace.is_given:
      page.keyboard.press('ArrowDown')
    assert page.title() == 'Denoising trace'
    assert page.locator('#tokens b, #tokens img, .settings i').count() == 0
    assert page.locator('script').count() == 3
    text = page.locator('#tokens').evaluate('node => node.textContent')
    # The two that are shown by their numbers aside, all of it is there.
    assert text == re.sub('[\u2028\u202e]', '', fakes.HARD)


def test_the_text_can_be_copied(open_page):
  options = {'permissions': ['clipboard-read', 'clipboard-write']}
  with open_page([fakes.denoising()], **options) as page:
    go(page, 3)
    page.click('#copy')
    expect(page.locator('#copy')).to_have_text('Copied')
    assert page.evaluate('navigator.clipboard.readText()') == fakes.TEXT


def test_selected_text_is_the_text(open_page):
  with open_page([fakes.denoising()]) as page:
    page.evaluate('getSelection().selectAllChildren(tokens)')
    assert page.evaluate('String(getSelection())').strip() == fakes.TEXT


def test_light_and_dark(open_page):
  ground = 'getComputedStyle(document.body).backgroundColor'
  with open_page([fakes.restless()], color_scheme='dark') as page:
    dark = page.evaluate(ground)
    assert page.locator('#theme').get_attribute('aria-pressed') == 'true'
    page.click('#theme')
    light = page.evaluate(ground)
    other = page.context.new_page()
    other.goto(page.url)
    page.reload()
    for one in (page, other):
      one.wait_for_function(f'{ground} === {light!r}')
    page.click('#theme')
    other.wait_for_function(f'{ground} === {dark!r}')
    assert page.evaluate(ground) == dark
  with open_page([fakes.restless()], color_scheme='light') as page:
    assert page.evaluate(ground) == light


def test_reduced_motion(open_page):
  with open_page([fakes.denoising()], **STILL) as page:
    animations = page.evaluate("""[...document.querySelectorAll('.token')]
      .some((token) => getComputedStyle(token).animationName !== 'none')""")
    assert not animations


@pytest.mark.parametrize('width', [320, 390])
def test_a_phone_is_wide_enough(open_page, width):
  trace = fakes.denoising(settings={'a long name': 'a-long-value' * 6})
  options = {'viewport': {'width': width, 'height': 700}, 'has_touch': True}
  with open_page([trace, fakes.restless()], **options) as page:
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    page.locator('.token').nth(2).tap()
    assert page.locator('#tip').is_visible()


def test_a_long_trace_is_quick(open_page):
  trace = fakes.denoising(text='word ' * 600, steps=128)
  with open_page([trace]) as page:
    page.evaluate('step.value = 0; step.dispatchEvent(new Event("input"))')
    took = page.evaluate("""() => {
      const start = performance.now();
      for (let k = 1; k <= 100; k++) {
        step.value = k;
        step.dispatchEvent(new Event('input'));
      }
      return (performance.now() - start) / 100;
    }""")
    assert took < 40, f'{took} ms a frame'
    assert page.evaluate(READ) == shown(trace, 100)


def test_a_notebook_frame_fits_its_page(browser, tmp_path):
  pytest.importorskip('IPython')
  cell = show([fakes.denoising()], height=100).data
  source = f'<!doctype html><link rel="icon" href="data:,">{cell}'
  path = tmp_path / 'notebook.html'
  path.write_text(source, encoding='utf-8')
  page = browser.new_page()
  page.goto(path.as_uri())
  frame = page.frame_locator('iframe')
  frame.locator('#step').fill('0')
  expect(page.locator('iframe')).not_to_have_css('height', '100px')
  assert frame.locator('.masked').count() == len(fakes.denoising().is_given)
  inner = frame.locator('html').evaluate('node => node.scrollHeight')
  assert page.locator('iframe').bounding_box()['height'] >= inner
  page.close()
