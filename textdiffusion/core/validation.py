"""One check for the fields of frozen dataclasses."""

import dataclasses
import functools
import math
import typing
from typing import Any, Literal

from textdiffusion.core.types import UserError


def check_fields(owner: Any, **intervals: str) -> None:
  """Raises UserError for a field out of its interval or its `Literal` type.

  Args:
    owner: a dataclass instance; call this in its `__post_init__`.
    **intervals: of fields that are numbers, such as `steps='[1, inf)'` or
      `top_p='(0, 1]'`.
  """
  for name, choices in _choices(type(owner)).items():
    value = getattr(owner, name)
    if value not in choices:
      _refuse(owner, name, 'one of ' + ', '.join(map(str, choices)))
  for name, interval in intervals.items():
    value = getattr(owner, name)
    low, high = (float(end) for end in interval[1:-1].split(','))
    is_above = value >= low if interval[0] == '[' else value > low
    is_below = value <= high if interval[-1] == ']' else value < high
    if is_above and is_below:
      continue
    if math.isinf(high):
      word = 'at least' if interval[0] == '[' else 'above'
      _refuse(owner, name, f'{word} {low:g}')
    _refuse(owner, name, f'in {interval}')


def refuse_unused_fields(owner: Any, *names: str, needs: str) -> None:
  """Raises UserError for a field that is not its default.

  Args:
    owner: a dataclass instance.
    *names: fields that have no effect beside the others.
    needs: what they need, for the message.
  """
  for field in dataclasses.fields(owner):
    value = getattr(owner, field.name)
    if field.name in names and value != field.default:
      raise UserError(
        f'{type(owner).__name__}({field.name}={value!r}): has no effect; it '
        f'needs {needs}'
      )


def _refuse(owner: Any, name: str, rule: str) -> None:
  value = getattr(owner, name)
  raise UserError(f'{type(owner).__name__}({name}={value!r}): must be {rule}')


@functools.cache
def _choices(cls: type) -> dict[str, tuple]:
  """The values that the `Literal` fields of a class may take."""
  hints = typing.get_type_hints(cls)
  return {
    name: typing.get_args(hint)
    for name, hint in hints.items()
    if typing.get_origin(hint) is Literal
  }
