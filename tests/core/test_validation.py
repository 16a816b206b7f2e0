"""The check of the fields of a dataclass."""

import dataclasses
from typing import Literal

import pytest

from textdiffusion.core.types import UserError
from textdiffusion.core.validation import check_fields


@dataclasses.dataclass(frozen=True)
class Options:
  kind: Literal['one', 'two'] = 'one'
  count: int = 1
  share: float = 0.5

  def __post_init__(self):
    check_fields(self, count='[1, inf)', share='(0, 1]')


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'kind': 'three'}, r"Options\(kind='three'\): must be one of one, two"),
    ({'count': 0}, r'Options\(count=0\): must be at least 1'),
    ({'share': 0.0}, r'Options\(share=0.0\): must be in \(0, 1\]'),
    ({'share': 1.1}, r'Options\(share=1.1\): must be in \(0, 1\]'),
    ({'share': float('nan')}, r'Options\(share=nan\): must be in'),
  ],
)
def test_a_bad_value_is_named_with_its_range(changes, message):
  with pytest.raises(UserError, match=message):
    Options(**changes)


def test_the_ends_of_a_range():
  assert Options('two', 1, 1.0).share == 1.0
  assert Options(count=10**9, share=1e-9).count == 10**9


def test_none_is_no_number():
  assert Options(share=None).share is None


@dataclasses.dataclass(frozen=True)
class Section:
  config_group = 'some.group'

  count: int | None = None

  def __post_init__(self):
    check_fields(self, count='[1, inf)')


def test_a_section_of_a_config_is_named_as_on_the_command_line():
  assert Section().count is None
  with pytest.raises(UserError, match=r'^some\.group\.count=0: must be at'):
    Section(0)
