"""Checks the shapes and types of arrays that annotations state, in every call.

Each function of the library that names arrays, as in `Float[Array, '... L']`,
raises here if an argument or result is another. NumPy arrays are taken as well,
as JAX takes them. Other annotations are left to the type checker, as isinstance
of a protocol costs much at run time.
"""

import types
import typing
from collections.abc import Callable
from typing import Any, Union

import beartype
import jax
import jaxtyping
import numpy as np

ARRAYS = Union[jax.Array, np.ndarray, np.generic]  # noqa: UP007


def widened(hint: Any) -> Any:
  """Returns the hint for JAX and for NumPy arrays, or None without arrays."""
  if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
    return hint.dtype[ARRAYS, hint.dim_str]
  parts = typing.get_args(hint)
  new = [widened(part) for part in parts]
  if not any(part is not None for part in new):
    return None
  origin = typing.get_origin(hint)
  if origin is types.UnionType:
    origin = Union
  kept = [old if part is None else part for old, part in zip(parts, new)]
  return origin[tuple(kept)]


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns a function that checks the arrays among its annotations."""
  hints = {n: widened(hint) for n, hint in function.__annotations__.items()}
  if not any(hint is not None for hint in hints.values()):
    return function
  function.__annotations__ = {
    name: object if hint is None else hint for name, hint in hints.items()
  }
  return beartype.beartype(function)


def check() -> None:
  """Checks all modules that are imported from now on."""
  wrap = jaxtyping.jaxtyped

  def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    # Others are left as they are, since the wrapper of a function costs time.
    return lambda made: (
      wrap(made, typechecker=typechecker) if is_checked(made) else made
    )

  jaxtyping.jaxtyped = jaxtyped  # what the hook puts around each definition
  jaxtyping.install_import_hook('textdiffusion', 'tests.shapes.checked')


def is_checked(made: Any) -> bool:
  """Returns whether a function or a class has annotations with arrays."""
  hints = getattr(made, '__annotations__', {})
  return any(widened(hint) is not None for hint in hints.values())
