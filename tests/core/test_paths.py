"""Paths that a user names."""

import os

import pytest

from textdiffusion.core.paths import check_writable, expand
from textdiffusion.core.types import UserError


def test_the_home_folder(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  assert expand('~/run') == tmp_path / 'run'
  assert str(expand('a/~/run')) == 'a/~/run'


def test_a_user_without_a_home(monkeypatch):
  monkeypatch.setattr(os.path, 'expanduser', lambda path: path)
  with pytest.raises(UserError, match='^~/run: the home folder is not known'):
    expand('~/run')


def test_what_can_be_written(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  check_writable(tmp_path / 'new' / 'deep' / 'report.json', 'x')
  check_writable(tmp_path / 'file', 'x')
  for path in (tmp_path, tmp_path / 'file' / 'report.json'):
    with pytest.raises(UserError, match='name another'):
      check_writable(path, 'name another')
  monkeypatch.setattr(os, 'access', lambda path, mode: False)
  with pytest.raises(UserError, match='report.json cannot be written: y'):
    check_writable(tmp_path / 'report.json', 'y')
  assert [path.name for path in tmp_path.iterdir()] == ['file']
