"""Applies dotted settings, `a.b=value`, to a tree of frozen dataclasses."""

import dataclasses
import difflib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from textdiffusion.core.types import UserError
from textdiffusion.parsing import classes_of, field_types, nearest, parse


@dataclasses.dataclass
class _Change:
  """The changes of a field and of the fields below it.

  Attributes:
    text: the new value of the field, None to keep its value.
    fields: changes of the fields below it, by name.
  """

  text: str | None = None
  fields: dict[str, '_Change'] = dataclasses.field(default_factory=dict)


def apply_overrides(config: Any, overrides: Sequence[str]) -> Any:
  """Returns a copy of a config with the settings `a.b=value` applied.

  The value of a field that holds a dataclass is a call, such as
  `method.schedule=Cosine()`. The fields of a group are changed at the same
  time, so that the order of settings does not matter even if one value is valid
  only in combination with another. The fields of a replaced dataclass are
  changed after the replacement. If a name is given twice, the last one counts.

  Raises:
    UserError: a name is unknown or a value is invalid.
  """
  root = _Change()
  for override in overrides:
    name, equals, text = override.partition('=')
    if not equals:
      raise UserError(f'--set={override} is not of the form a.b=value')
    change = root
    for part in name.split('.'):
      change = change.fields.setdefault(part, _Change())
    change.text = text
  return _changed(config, root, '')


def setting_names(cls: type, above: str = '') -> Iterator[str]:
  """Yields the dotted names of the fields of a config class, by its types.

  Args:
    cls: the class.
    above: its dotted name followed by a dot, or '' at the root.
  """
  for name, hint in field_types(cls).items():
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
      yield from setting_names(hint, f'{above}{name}.')
    else:
      yield f'{above}{name}'


def _changed(node: Any, change: _Change, above: str) -> Any:
  """Returns `node` with its changes applied.

  Args:
    node: a dataclass of the tree.
    change: the changes of its fields.
    above: its dotted name followed by a dot, or '' at the root.
  """
  types = field_types(type(node))
  fresh = {}
  for name, below in change.fields.items():
    full = f'{above}{name}'
    if name not in types:
      raise UserError(
        f'unknown config field {full}: {type(node).__name__} has no '
        f'{name!r}{nearest(name, types)}; its fields are {", ".join(types)}'
      )
    value = getattr(node, name)
    if value is None and below.fields and hasattr(node, 'default_of'):
      value = node.default_of(name)
    if below.text is not None:
      if dataclasses.is_dataclass(value):
        _check_call(value, below.text, full, classes_of(types[name]))
      value = parse(types[name], below.text, full)
    if below.fields:
      inner = f'{full}.{next(iter(below.fields))}'
      if value is None and (classes := sorted(classes_of(types[name]))):
        raise UserError(
          f'{inner}: {name} is None; replace it first, for example by '
          f'--set={full}={classes[0]}(...)'
        )
      if not dataclasses.is_dataclass(value):
        raise UserError(
          f'{inner}: {name} is a single value, not a group of fields'
        )
      value = _changed(value, below, f'{full}.')
    fresh[name] = value
  return dataclasses.replace(node, **fresh)


def _check_call(
  group: Any, text: str, name: str, classes: Collection[str]
) -> None:
  """Raises UserError if `text` is neither a call nor None, as in `train=5`.

  Args:
    group: value of the field, a dataclass.
    text: the new value.
    name: dotted name of the field.
    classes: names of the classes that the field takes.
  """
  if '(' not in text and text != 'None':
    if near := difflib.get_close_matches(text, classes, 1):
      raise UserError(
        f'{name}={text} is not a call (did you mean {near[0]}()?)'
      )
    fields = ', '.join(f'{name}.{f.name}' for f in dataclasses.fields(group))
    raise UserError(
      f'{name}={text} is not a call such as {type(group).__name__}(...), and '
      f'{name} is a group of fields; set one of {fields}'
    )
