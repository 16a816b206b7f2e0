"""Text files as users have them: marks, line ends, JSON, options."""

import codecs
import gzip
import json

import pytest

from launch.answer import _read
from textdiffusion.core.types import UserError
from textdiffusion.data.sources import open_source

BOM = codecs.BOM_UTF8


def texts(source):
  return list(open_source(source, 0.0).documents('train'))


def pairs(source):
  return list(open_source(source, 0.0).pairs('train'))


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
@pytest.mark.parametrize('mark', [b'', BOM])
def test_marks_and_line_ends_are_no_text(tmp_path, mark, end):
  """The files of Unix, of Windows and of old Macs hold the same texts."""

  def write(name, *lines):
    data = mark + ''.join(line + end for line in lines).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.endswith('.gz') else data)
    return path

  rows = [json.dumps({'text': text}) for text in ('one', 'two')]
  assert texts(f'files:{write("a.txt", "one", "two")}?split=line') == [
    'one', 'two',
  ]  # fmt: skip
  zipped = write('b.txt.gz', 'one', 'two', '', ' ', 'three')
  assert texts(f'files:{zipped}?split=blank') == ['one\ntwo', 'three']
  assert texts(f'files:{write("c.jsonl", *rows)}') == ['one', 'two']
  whole = write('d.txt', 'one', 'two')
  assert texts(f'files:{whole}') == [f'one{end}two{end}'], 'to the letter'

  rows = [json.dumps({'src': 'a', 'trg': 'b'})] * 2
  assert pairs(f'pairs:{write("e.jsonl", *rows)}') == [('a', 'b')] * 2
  source, target = write('s.txt', 'a', 'b'), write('t.txt', 'c', 'd')
  assert pairs(f'pairs:{source},{target}') == [('a', 'c'), ('b', 'd')]
  assert pairs(f'pairs:{write("u.tsv", "a|c")}?sep=|') == [('a', 'c')]
  assert _read(str(source)) == ['a', 'b'], '--source'


def test_a_return_within_a_line_does_not_shift_pairs(tmp_path):
  (tmp_path / 's').write_bytes(b'a\rb\nc\r\n')
  (tmp_path / 't').write_bytes(b'd\ne\n')
  found = pairs(f'pairs:{tmp_path}/s,{tmp_path}/t')
  assert found == [('a\rb', 'd'), ('c', 'e')]


def test_a_bad_byte_is_named_by_its_place_in_the_file(tmp_path):
  path = tmp_path / 'a.txt'
  for mark in (b'', BOM):
    path.write_bytes(mark + b'good\n\xe9')
    for option in ('', '?split=line'):
      with pytest.raises(UserError, match=rf'byte {len(mark) + 5} \(0xe9\)'):
        texts(f'files:{path}{option}')


@pytest.mark.parametrize(
  ('line', 'reason'),
  [
    ('[' * 200_000 + ']' * 200_000, 'nested too deep'),
    ('{"text": "a", "n": ' + '1' * 5000 + '}', 'not JSON'),
    ('{"te\\nxt": "a"}', "no text in the field 'text'"),
  ],
)
@pytest.mark.parametrize('kind', ['files', 'pairs'])
def test_odd_json_is_refused_in_one_line(tmp_path, kind, line, reason):
  path = tmp_path / 'a.jsonl'
  path.write_text('{"text": "a", "src": "a", "trg": "b"}\n' + line)
  if kind == 'pairs':
    reason = reason.replace("'text'", "'src'")
  with pytest.raises(UserError, match=f'a.jsonl:2: .*{reason}') as caught:
    (texts if kind == 'files' else pairs)(f'{kind}:{path}')
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  ('spec', 'reason'),
  [
    ('files:{}/p.jsonl?key=', "option 'key' .* has no value"),
    ('files:{}/p.jsonl?split=line&key', "option 'key' .* has no value"),
    ('files:{}/a.txt?split=', "option 'split' .* has no value"),
    ('files:{}/a.txt?split=line&split=blank', 'given twice'),
    ('files:{}/a.txt?key=body', 'key=body has no effect'),
    ('files:{}/p.jsonl?split=line', 'split=line has no effect'),
    ('pairs:{}/p.jsonl?sep=tab', 'sep=tab has no effect'),
    ('pairs:{}/p.jsonl?heldout=dev', 'heldout=dev has no effect'),
    ('pairs:{0}/a.txt,{0}/a.txt?src=x', 'src=x has no effect'),
    ('pairs:{}/a.txt?sep=tab&trg=x', 'trg=x has no effect'),
    ('tfds:lm1b/train?key=', "option 'key' .* has no value"),
    ('pairs:tfds:lm1b/train?sep=tab', 'sep=tab has no effect'),
    ('pairs:{}', 'matches no file'),
  ],
)
def test_options_without_a_value_or_an_effect(tmp_path, spec, reason):
  (tmp_path / 'p.jsonl').write_text('{"text": "a", "src": "b", "trg": "c"}\n')
  (tmp_path / 'a.txt').write_text('one\ttwo\n')
  read = pairs if spec.startswith('pairs') else texts
  with pytest.raises(UserError, match=reason):
    read(spec.format(tmp_path))
