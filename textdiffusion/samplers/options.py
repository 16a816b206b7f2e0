"""Options of a sampler, whichever sampler holds them: changed, and in words."""

import dataclasses
from typing import Any

from textdiffusion.core.types import UserError
from textdiffusion.samplers.base import SPECIAL_IDS, Sampler


def with_options(
  sampler: Sampler,
  steps: int | None = None,
  temperature: float | None = None,
) -> Sampler:
  """Returns a sampler with other options; None keeps those that it has.

  Args:
    sampler: any. A sampler around another one has the options of that.
    steps: intervals of its grid of times.
    temperature: of its draws, or of its noise.

  Raises:
    UserError: the sampler has no such option, or the value is out of range.
  """
  changes: dict[str, Any] = {'steps': steps, 'temperature': temperature}
  for name, value in changes.items():
    if value is None:
      continue
    changed = _replaced(sampler, name, value)
    if changed is None:
      raise UserError(f'{type(sampler).__name__}() has no {name}; leave it out')
    sampler = changed
  return sampler


def shortened(node: Any) -> str:
  """Returns the call that builds a sampler, without what is the default."""
  parts = [
    f'{field.name}={_in_words(value)}'
    for field in dataclasses.fields(node)
    if (value := getattr(node, field.name)) != field.default
    and field.name not in SPECIAL_IDS
  ]
  return f'{type(node).__name__}({", ".join(parts)})'


def _in_words(value: object) -> str:
  return shortened(value) if dataclasses.is_dataclass(value) else repr(value)


def _replaced(node: Any, name: str, value: Any) -> Any:
  """`node` with the option of that name, or None if it has none."""
  fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
  inner = [key for key, held in fields.items() if isinstance(held, Sampler)]
  if not inner and name in fields:
    return dataclasses.replace(node, **{name: value})
  parts = inner or [key for key in ('filter', 'propose') if key in fields]
  for key in parts:
    changed = _replaced(fields[key], name, value)
    if changed is not None:
      return dataclasses.replace(node, **{key: changed})
  return None
