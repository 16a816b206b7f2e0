"""The program `textdiffusion`."""

import sys

import pytest

from textdiffusion import launchers


def run(monkeypatch, *args):
  monkeypatch.setattr(sys, 'argv', ['textdiffusion', *args])
  with pytest.raises(SystemExit) as end:
    launchers.main()
  return end.value.code


@pytest.mark.parametrize('args', [(), ('--help',), ('help',)])
def test_help_lists_the_commands(monkeypatch, capsys, args):
  assert run(monkeypatch, *args) == 0
  out = capsys.readouterr().out
  for command in launchers.COMMANDS:
    assert f'\n  {command} ' in out


def test_an_unknown_command(monkeypatch, capsys):
  assert run(monkeypatch, 'trian') == 2
  error = capsys.readouterr().err
  assert error.startswith("error: textdiffusion has no command 'trian'\n")
  assert 'train' in error
