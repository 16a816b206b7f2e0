"""What a run exits with."""

import jax
import pytest

from launch import codes
from textdiffusion.core.types import Interrupted, UserError

NAME = 'TEXTDIFFUSION_STOPPED_CODE'


def test_a_stopped_run_exits_as_it_was_asked_to(monkeypatch):
  monkeypatch.delenv(NAME, raising=False)
  codes.exit_if_stopped(True)
  monkeypatch.setenv(NAME, '75')
  codes.exit_if_stopped(False)
  with pytest.raises(SystemExit) as ends:
    codes.exit_if_stopped(True)
  assert ends.value.code == 75


@pytest.mark.parametrize('code', ['abc', '256', '-1', ''])
def test_what_is_no_code_is_told_at_once(monkeypatch, code):
  monkeypatch.setenv(NAME, code)
  with pytest.raises(UserError, match=f'{NAME}={code}: must be 0 to 255'):
    codes.stopped_code()
  monkeypatch.setenv('TEXTDIFFUSION_TRIES', code)
  with pytest.raises(UserError, match=f'TRIES={code}: must be'):
    codes.tries()


def test_of_many_the_loss_of_another_is_no_defect():
  lost = jax.errors.JaxRuntimeError('UNAVAILABLE: connection closed by peer')
  full = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: out of memory')
  assert codes.exit_code(lost) == 75
  assert codes.exit_code(Interrupted('a host is gone')) == 75
  assert codes.exit_code(UserError('a mistake')) == 2
  assert codes.exit_code(full) == codes.exit_code(ValueError('a defect')) == 1
