"""Checks of the fields of frozen dataclasses, with one form of message."""

import dataclasses
import functools
import math
import typing
from typing import Any, Literal, NoReturn

from textdiffusion.core.types import UserError


def check_fields(owner: object, **intervals: str) -> None:
  """Checks numbers against intervals, and `Literal` fields against their types.

  Args:
    owner: a dataclass instance; call this function in its `__post_init__`. Its
      class may have an attribute `config_group`, the dotted name of its fields
      in a config, such as `train.optimizer`; messages then use that name.
    **intervals: the interval of each numeric field, such as
      `steps='[1, inf)'` or `top_p='(0, 1]'`. A field that is None passes.

  Raises:
    UserError: a number is outside its interval, or a `Literal` field has a
      value that its type does not list.
  """
  for name, choices in _choices(type(owner)).items():
    value = getattr(owner, name)
    if value not in choices:
      _refuse(owner, name, 'one of ' + ', '.join(map(str, choices)))
  for name, interval in intervals.items():
    value = getattr(owner, name)
    if value is None:
      continue
    low, high = (float(end) for end in interval[1:-1].split(','))
    try:
      is_above = value >= low if interval[0] == '[' else value > low
      is_below = value <= high if interval[-1] == ']' else value < high
    except TypeError:
      _refuse(owner, name, 'a number')
    if is_above and is_below:
      continue
    if math.isinf(high):
      word = 'at least' if interval[0] == '[' else 'above'
      _refuse(owner, name, f'{word} {low:g}')
    _refuse(owner, name, f'in {interval}')


def refuse_unused_fields(owner: Any, *names: str, needs: str) -> None:
  """Checks that fields without an effect have their default values.

  Args:
    owner: a dataclass instance.
    *names: fields that have no effect with the values of the other fields.
    needs: the setting that would give them an effect, for the message.

  Raises:
    UserError: one of the fields differs from its default.
  """
  for field in dataclasses.fields(owner):
    value = getattr(owner, field.name)
    if field.name in names and value != field.default:
      raise UserError(
        f'{type(owner).__name__}({field.name}={value!r}): has no effect; it '
        f'needs {needs}'
      )


def _refuse(owner: object, name: str, rule: str) -> NoReturn:
  """Raises UserError with the field, its value and the rule."""
  setting = f'{name}={getattr(owner, name)!r}'
  if group := getattr(type(owner), 'config_group', ''):
    raise UserError(f'{group}.{setting}: must be {rule}')
  raise UserError(f'{type(owner).__name__}({setting}): must be {rule}')


@functools.cache
def _choices(cls: type) -> dict[str, tuple]:
  """Returns the allowed values of each `Literal` field of a class, by name."""
  hints = typing.get_type_hints(cls)
  return {
    name: typing.get_args(hint)
    for name, hint in hints.items()
    if typing.get_origin(hint) is Literal
  }
