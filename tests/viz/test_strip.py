import warnings

import numpy as np
import pytest

from tests.viz import fakes
from textdiffusion.core.types import UserError
from textdiffusion.viz.strip import trace_figure, trace_png

TRACE = fakes.denoising(
  steps=8, given=(0, 1, 2), title='A sample', settings={'steps': 8}
)


def texts(figure) -> str:
  return '\n'.join(text.get_text() for text in figure.axes[0].texts)


def pixels(figure) -> np.ndarray:
  from matplotlib.backends.backend_agg import FigureCanvasAgg

  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  return np.asarray(canvas.buffer_rgba())[..., :3].astype(int)


def test_a_picture_is_written(tmp_path):
  path = tmp_path / 'new' / 'strip.png'
  trace_png(TRACE, path, rows=3)
  assert path.read_bytes().startswith(b'\x89PNG')
  assert path.stat().st_size > 10_000
  assert len(list(path.parent.iterdir())) == 1


def test_a_picture_may_be_vectors(tmp_path):
  trace_png(TRACE, tmp_path / 'strip.svg', rows=2)
  assert '<svg' in (tmp_path / 'strip.svg').read_text()


def test_rows_are_spread_over_the_trace():
  for rows, steps in ((1, [8]), (3, [0, 4, 8]), (99, list(range(9)))):
    shown = texts(trace_figure(TRACE, rows=rows))
    assert [f'step {k}' in shown.split('\n') for k in range(9)] == [
      k in steps for k in range(9)
    ]


def test_masks_say_nothing_and_the_last_row_says_all():
  start = texts(trace_figure(fakes.denoising(steps=8), rows=8))
  assert ' statem' in start
  trace = fakes.left_to_right('secret words')
  # One row of the first frame: of the trace, only its start.
  figure = trace_figure(
    fakes.Trace(
      trace.frames[:1],
      trace.log_prob[:1],
      trace.is_masked[:1],
      trace.is_given,
      trace.times[:1],
    )
  )
  assert 'secret' not in texts(figure)
  assert 'masked' in texts(figure)


def test_colours_tell_confidence_apart():
  def shade(log_prob):
    trace = fakes.Trace(
      [['     word     ']], [[log_prob]], [[False]], [False], [0.0]
    )
    image = pixels(trace_figure(trace))
    colours, counts = np.unique(
      image.reshape(-1, 3), axis=0, return_counts=True
    )
    return colours[counts.argsort()[-2]]  # the most after the paper

  low, high = shade(-9.0), shade(0.0)
  assert low[0] > low[1] + 20, low  # red
  assert high[1] > high[0] + 20, high  # green


@pytest.mark.parametrize('dark', [False, True])
@pytest.mark.parametrize('colour', ['confidence', 'step'])
def test_paper_and_ink(dark, colour):
  image = pixels(trace_figure(TRACE, rows=2, dark=dark, colour=colour))
  assert (image[0, 0].mean() < 60) == dark
  assert image.std() > 5


def test_dollars_and_foreign_letters_are_text(tmp_path):
  trace = fakes.denoising(
    text='cost $x^$ or $\\frac{$ 日本語 🙂 \x07 <b>', steps=2, title='$\\frac$'
  )
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    trace_png(trace, tmp_path / 'strip.png', rows=2)
  assert (tmp_path / 'strip.png').read_bytes().startswith(b'\x89PNG')


def test_a_changed_token_keeps_to_its_room():
  figure = trace_figure(fakes.restless(), rows=5)
  assert 'dog' in texts(figure)
  assert 'cat' in texts(figure)


def test_long_texts_are_cut():
  trace = fakes.denoising(text='word ' * 400, steps=2)
  figure = trace_figure(trace, rows=2, max_lines=3)
  assert texts(figure).count('…') == 2
  assert figure.get_size_inches()[1] < 4


def test_matplotlib_is_left_as_it_was():
  import matplotlib

  before = matplotlib.get_backend()
  trace_figure(TRACE, rows=1)
  assert matplotlib.get_backend() == before


def test_mistakes_are_named(tmp_path):
  with pytest.raises(UserError, match='rows=0'):
    trace_figure(TRACE, rows=0)
  with pytest.raises(UserError, match='width=3'):
    trace_figure(TRACE, width=3)
  with pytest.raises(UserError, match="colour='red'"):
    trace_figure(TRACE, colour='red')
  with pytest.raises(UserError, match='strip.doc'):
    trace_png(TRACE, tmp_path / 'strip.doc')
