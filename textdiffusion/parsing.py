"""Converts text and Python values to the types of config fields.

A field that holds a dataclass takes a call, `Squeezed(Cosine(), eps=1e-3)`. It
is parsed from the syntax tree, so that no text is executed as code, and the
arguments are checked against their types before the class is called.
"""

import ast
import dataclasses
import difflib
import functools
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

from textdiffusion.core.types import UserError

REFUSED = object()  # Stands for a value that does not fit its type.
_LONGEST = 80  # Longest value in a message, in characters.
_PACKAGE = 'textdiffusion.'
_PUBLIC = ('evaluators', 'methods', 'samplers')  # Folders that `td` has.
_PLAIN = (bool, int, float, str, type(None))


def nearest(name: str, names: Iterable[str]) -> str:
  """Returns ' (did you mean X?)' with the closest names, or ''."""
  near = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
  return f' (did you mean {" or ".join(near)}?)' if near else ''


def parse(hint: Any, text: str, name: str) -> Any:
  """Parses the text of a flag as the type of a field.

  Args:
    hint: type of the field.
    text: a literal, a bare word or, if the field holds a dataclass, a call.
    name: dotted name of the field, for messages.

  Returns:
    A value of that type.

  Raises:
    UserError: the text does not fit the type.
  """
  if takes_nodes(hint):
    return _parse_node(hint, text, name)
  try:
    value = ast.literal_eval(text)
  except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
    value = _word(text)
  for candidate in (value, text):
    result = coerce(hint, candidate)
    if result is not REFUSED:
      return result
  raise unexpected(hint, text, name)


def coerce(hint: Any, value: Any) -> Any:
  """Returns `value` as the type `hint`, or REFUSED."""
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if origin is Literal:
    return value if value in args else REFUSED
  if origin in (typing.Union, types.UnionType):
    results = [coerce(arg, value) for arg in args]
    return next((r for r in results if r is not REFUSED), REFUSED)
  if origin is tuple:
    if isinstance(value, str):
      value = [item.strip() for item in value.split(',') if item.strip()]
    items = value if isinstance(value, tuple | list) else (value,)
    results = tuple(coerce(args[0], item) for item in items)
    return REFUSED if REFUSED in results else results
  if hint is type(None):
    return None if value is None else REFUSED
  if hint is float and type(value) is int:
    return float(value)
  if hint in _PLAIN:
    return value if type(value) is hint else REFUSED
  return value if _is_instance(value, hint) else REFUSED


def check_value(hint: Any, value: Any, name: str) -> None:
  """Checks the value of a field that Python code gave.

  Args:
    hint: type of the field.
    value: the value. Objects that are neither plain nor dataclasses of a
      config, such as arrays, pass.
    name: dotted name of the field, for messages.

  Raises:
    UserError: the value does not fit the type.
  """
  if typing.get_origin(hint) is tuple and isinstance(value, tuple):
    for i, item in enumerate(value):
      check_value(typing.get_args(hint)[0], item, f'{name}[{i}]')
    return
  is_checked = is_plain(value) or takes_nodes(hint)
  if isinstance(value, type) or (is_checked and coerce(hint, value) is REFUSED):
    shown = value.__name__ if isinstance(value, type) else value
    error = unexpected(hint, shown, name)
    raise UserError(f'{error}{_constructor(hint, value)}')


def _constructor(hint: Any, value: Any) -> str:
  """Returns the call that a class, or the name of one, stands for in Python."""
  classes = classes_of(hint)
  if isinstance(value, type):
    classes[value.__name__] = value
    value = value.__name__
  near = difflib.get_close_matches(str(value), classes, 1)
  if not near:
    return ''
  folder = classes[near[0]].__module__.removeprefix(_PACKAGE).split('.')[0]
  place = f'td.{folder}.' if folder in _PUBLIC else ''
  return f' (did you mean {place}{near[0]}()?)'


def unexpected(hint: Any, value: Any, name: str) -> UserError:
  """Returns the error for a value that does not fit its field.

  Args:
    hint: type of the field.
    value: the value.
    name: dotted name of the field.
  """
  choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
  allowed = ' or '.join(map(repr, choices)) or _type_name(hint)
  near = nearest(str(value), [str(choice) for choice in choices])
  return UserError(f'{name}={_shortened(value)}: expected {allowed}{near}')


def is_plain(value: Any) -> bool:
  """Returns whether a value is a number, a string, None or a tuple."""
  return isinstance(value, (*_PLAIN, tuple))


def takes_nodes(hint: Any) -> bool:
  """Returns whether a field of this type holds dataclasses of this package."""
  if args := typing.get_args(hint):
    return any(takes_nodes(arg) for arg in args)
  if not isinstance(hint, type) or not hint.__module__.startswith(_PACKAGE):
    return False
  return dataclasses.is_dataclass(hint) or _is_interface(hint)


def classes_of(hint: Any) -> dict[str, type]:
  """Returns the dataclasses that a field of this type takes, by name.

  These are the type itself and its subclasses. For a protocol or an abstract
  class, they are the classes in the same folder that implement it. Classes with
  a required array are left out.
  """
  if args := typing.get_args(hint):
    return {k: cls for arg in args for k, cls in classes_of(arg).items()}
  if not takes_nodes(hint):
    return {}
  is_open = _is_interface(hint)
  found = _implementations(hint) if is_open else _with_subclasses(hint)
  return {cls.__name__: cls for cls in found if _is_writable(cls)}


def _with_subclasses(cls: type) -> list[type]:
  """Returns a class and all its subclasses."""
  below = [_with_subclasses(inner) for inner in cls.__subclasses__()]
  return [cls, *(inner for part in below for inner in part)]


@functools.cache
def _implementations(hint: type) -> tuple[type, ...]:
  """Returns the dataclasses in the folder of `hint` that implement it."""
  folder = hint.__module__.rpartition('.')[0]
  package = importlib.import_module(folder)
  modules = [
    importlib.import_module(f'{folder}.{module.name}')
    for module in pkgutil.iter_modules(package.__path__)
  ]
  return tuple(
    cls
    for module in modules
    for cls in vars(module).values()
    if inspect.isclass(cls)
    and cls.__module__ == module.__name__
    and dataclasses.is_dataclass(cls)
    and not _is_interface(cls)
    and _is_subclass(cls, hint)
  )


def _is_protocol(hint: type) -> bool:
  return getattr(hint, '_is_protocol', False)


def _is_interface(hint: type) -> bool:
  return _is_protocol(hint) or inspect.isabstract(hint)


def _is_subclass(cls: type, hint: type) -> bool:
  """Returns whether a class derives from `hint` or satisfies its protocol."""
  if not _is_protocol(hint):
    return issubclass(cls, hint)
  defined = {name for base in cls.__mro__[:-1] for name in vars(base)}
  return all(
    name in defined
    for name, value in vars(hint).items()
    if inspect.isfunction(value) and name not in vars(_Empty)
  )


class _Empty(typing.Protocol):
  """A protocol that has only the attributes of every protocol."""


def _is_instance(value: Any, hint: Any) -> bool:
  if not isinstance(hint, type):
    return False
  return _is_subclass(type(value), hint)


def _is_writable(cls: type) -> bool:
  """Returns whether all required fields can be written as text."""
  return all(
    hint in _PLAIN or typing.get_origin(hint) or takes_nodes(hint)
    for name, hint in field_types(cls).items()
    if name in _required(cls)
  )


def _required(cls: type) -> set[str]:
  """Returns the names of the fields without a default."""
  return {
    name
    for name, parameter in inspect.signature(cls).parameters.items()
    if parameter.default is inspect.Parameter.empty
  }


def field_types(cls: Any) -> dict[str, Any]:
  """Returns the type of each field of a dataclass."""
  hints = typing.get_type_hints(cls)
  return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _parse_node(hint: Any, text: str, name: str) -> Any:
  """Parses the text of a field that holds dataclasses."""
  try:
    tree = ast.parse(text.strip(), mode='eval').body
    return _value(hint, tree, name)
  except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
    if isinstance(error, UserError):
      raise
    raise _no_node(hint, text, name) from None


def _value(hint: Any, tree: ast.expr, name: str) -> Any:
  """Returns the value of an expression for a field of type `hint`.

  Raises:
    UserError: it does not fit; the message names the field, `name`.
  """
  if typing.get_origin(hint) is tuple and not isinstance(
    tree, ast.Tuple | ast.List
  ):
    tree = ast.Tuple([tree])  # one item
  classes = classes_of(hint)
  match tree:
    case ast.Call(func=ast.Name(id=called)) if classes:
      if called not in classes:
        raise UserError(
          f'{name}={_shortened(ast.unparse(tree))}: no {called} fits here'
          f'{nearest(called, classes)}; it takes {", ".join(sorted(classes))}'
        )
      return _build(classes[called], tree, name)
    case ast.Tuple(elts=items) | ast.List(elts=items):
      if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        return tuple(_value(inner, item, name) for item in items)
    case ast.Name(id=word) if word in classes:
      raise UserError(f'{name}={word}: not a call (did you mean {word}()?)')
  if isinstance(tree, ast.Name):
    value = _word(tree.id)
  else:
    try:
      value = ast.literal_eval(tree)
    except (ValueError, TypeError):
      value = REFUSED
  result = REFUSED if value is REFUSED else coerce(hint, value)
  if result is not REFUSED:
    return result
  raise (_no_node if classes else unexpected)(hint, ast.unparse(tree), name)


def _build(cls: type, call: ast.Call, name: str) -> Any:
  """Calls a class with the checked arguments of an expression."""
  hints = field_types(cls)
  given = [str(keyword.arg) for keyword in call.keywords]
  try:
    if len(set(given)) < len(given):
      raise TypeError('an argument is given twice')
    named = {key: word.value for key, word in zip(given, call.keywords)}
    bound = inspect.signature(cls).bind(*call.args, **named).arguments
  except TypeError as error:
    near = ''.join(nearest(key, hints) for key in given if key not in hints)
    raise UserError(
      f'{name}={_shortened(ast.unparse(call))}: {error}{near}; '
      f'{cls.__name__} has {", ".join(hints) or "no fields"}'
    ) from None
  return cls(
    **{key: _value(hints[key], x, f'{name}.{key}') for key, x in bound.items()}
  )


def _no_node(hint: Any, text: str, name: str) -> UserError:
  """Returns the error for a text that is not a call of a fitting class."""
  classes = sorted(classes_of(hint))
  near = difflib.get_close_matches(text, classes, 1)
  hint_text = f' (did you mean {near[0]}()?)' if near else ''
  return UserError(
    f'{name}={_shortened(text)}: expected {_type_name(hint)}, written as a '
    f'call: {", ".join(f"{cls}(...)" for cls in classes)}{hint_text}'
  )


def _word(text: str) -> Any:
  """Returns the value of a bare word: a bool for true and false."""
  return {'true': True, 'false': False}.get(text.lower(), text)


def _type_name(hint: Any) -> str:
  if isinstance(hint, types.UnionType):
    return ' or '.join(map(_type_name, typing.get_args(hint)))
  if hint is type(None):
    return 'None'
  return getattr(hint, '__name__', str(hint))


def _shortened(value: Any) -> str:
  text = str(value)
  if len(text) <= _LONGEST:
    return text
  return f'{text[:_LONGEST]}... ({len(text):,} characters)'
