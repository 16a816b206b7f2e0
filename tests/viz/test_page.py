import json

import pytest

from tests.viz import fakes
from textdiffusion.viz import page as page_lib
from textdiffusion.viz.page import embed, escape, page, write


def test_embedded_json_is_harmless_and_true():
  text = fakes.HARD + '\ud800 \x00'
  inside = embed({'text': text})
  assert not set('<>&\u2028\u202e\ud800') & set(inside)
  assert json.loads(inside) == {'text': text}


def test_embedded_json_has_no_nan():
  with pytest.raises(ValueError, match='JSON'):
    embed([float('nan')])


def test_escape_shows_what_would_not_be_seen():
  assert escape('<b>&"\'') == '&lt;b&gt;&amp;&quot;&#x27;'
  assert escape('a\x00\x1b\x7f\rb') == 'a␀␛␡␍b'
  assert escape('\u202eabc') == '⟨U+202E⟩abc'
  assert escape('\ud800') == '\ufffd'
  assert escape('a\tb\nc 日本') == 'a\tb\nc 日本'


def test_a_page_can_always_be_encoded():
  html = page('\ud800', '', {'x': '\udfff'})
  assert html.encode().startswith(b'<!doctype html>')


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
  path = tmp_path / 'deep' / 'page.html'
  write(path, 'first ü')
  assert path.read_text(encoding='utf-8') == 'first ü'

  def fail(*args):
    raise OSError('no room')

  monkeypatch.setattr(page_lib.os, 'replace', fail)
  with pytest.raises(OSError, match='no room'):
    write(path, 'second')
  assert path.read_text(encoding='utf-8') == 'first ü'
  assert [file.name for file in path.parent.iterdir()] == ['page.html']
