import pytest

from textdiffusion.viz.wrapping import (
  cropped,
  measure,
  signs,
  stretches,
  wrap,
)


def lines(pieces, width, max_lines=99):
  """The text as it is set, and whether it was cut."""
  runs, is_cut = wrap(pieces, width, max_lines)
  rows = {}
  for run in runs:
    row = rows.setdefault(run.line, '')
    assert measure(row) == run.column
    rows[run.line] = row + signs(pieces[run.place])[run.start : run.stop]
    assert measure(rows[run.line]) - run.column == run.width
  return list(rows.values()), is_cut


@pytest.mark.parametrize(
  ('pieces', 'expected'),
  [
    (['The', ' cat', ' sat'], ['The cat', ' sat']),
    (['a\nb', '\n', '\n', 'c'], ['a↵', 'b↵', '↵', 'c']),
    (['one', ' dif', 'fusion'], ['one dif', 'fusion']),
    (['one', ' dif', 'fus'], ['one', ' diffus']),
    (['x' * 20], ['x' * 9, 'x' * 9, 'xx']),
    (['ab', '日本語日本'], ['ab', '日本語日', '本']),
    (['a\tb'], ['a⇥b']),
  ],
)
def test_lines(pieces, expected):
  assert lines(pieces, 9) == (expected, False)


def test_every_letter_is_set_once():
  pieces = ['ab ', 'c' * 30, '\n\n d', 'é́', '\t', ' e'] * 5
  rows, is_cut = lines(pieces, 12)
  assert ''.join(rows) == signs(''.join(pieces))
  assert not is_cut
  assert max(map(measure, rows)) <= 12


def test_what_finds_no_room_is_told():
  assert lines(['a\n', 'b\n', 'c'], 9, max_lines=2) == (['a↵', 'b↵'], True)
  assert len(wrap([''], 9, 2)[0]) == 1


def test_what_is_not_seen_gets_a_sign():
  assert signs('a\n\t\x00\x7f\u202e\u200b ') == 'a↵⇥␀␡\ufffd\ufffd '


def test_stretches():
  assert stretches('ab↵c日d') == [
    ('ab', False),
    ('↵', True),
    ('c日', False),
    ('d', False),
  ]


def test_cropped():
  assert cropped('abcdef', 6) == 'abcdef'
  assert cropped('abcdef', 4) == 'abc…'
  assert cropped('日本語', 4) == '日…'
