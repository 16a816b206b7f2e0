"""Lazy imports: the modules of public names are imported at their first use."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(
  package: str, names: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
  """Builds `__getattr__`, `__dir__` and `__all__` of a package.

  Args:
    package: name of the package.
    names: public name -> the module that defines it, relative to `package`; ''
      if the public name is a module itself.
  """

  def get(name: str) -> Any:
    if name not in names:
      raise AttributeError(f'{package} has no {name!r}')
    module = names[name]
    if not module:
      return importlib.import_module(f'{package}.{name}')
    return getattr(importlib.import_module(f'{package}.{module}'), name)

  return get, lambda: sorted(names), sorted(names)
