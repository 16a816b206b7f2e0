"""Flags and settings that cannot take effect beside others are refused."""

from collections.abc import Collection, Iterable
from typing import Any

from absl import flags

from textdiffusion.api.text_model import TextModel
from textdiffusion.core.types import UserError
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.options import with_options

from . import common

FLAGS = flags.FLAGS


def refuse(names: Iterable[str], reason: str) -> None:
  """Raises UserError for the first of these flags that was given."""
  for name in names:
    if FLAGS[name].present:
      raise UserError(f'--{name}={FLAGS[name].value}: {reason}; leave it out')


def refuse_settings(prefixes: Collection[str], reason: str) -> None:
  """Raises UserError for the first --set of a field with such a prefix.

  Args:
    prefixes: `train.` is a whole group, also where it is replaced as one;
      `train.steps=` is one field.
    reason: why it has no effect.
  """
  for setting in common.SET.value:
    name = setting.partition('=')[0]
    if f'{name}='.startswith(tuple(prefixes)) or f'{name}.' in prefixes:
      raise UserError(f'--set={setting}: {reason}; leave it out')


def refuse_empty(*names: str) -> None:
  """Raises UserError for a flag that names nothing, such as `--out=`."""
  for name in names:
    if FLAGS[name].present and not FLAGS[name].value:
      raise UserError(f'--{name}= names nothing: give a value, or leave it out')


def check_checkpoint() -> None:
  """The flags that name a checkpoint."""
  refuse_empty('checkpoint', 'workdir', 'config')
  if FLAGS['checkpoint'].present:
    refuse(['workdir'], '--checkpoint is given too, and is what is read')


def sampler_of(
  model: TextModel, steps: int | None, temperature: float | None
) -> Sampler:
  """Returns the sampler of a model with the options of --steps and
  --temperature, or raises UserError where it has none."""
  sampler = model.parts.method.sampler
  changes: dict[str, Any] = {'steps': steps, 'temperature': temperature}
  for name, value in changes.items():
    try:
      sampler = with_options(sampler, **{name: value})
    except UserError as error:
      raise UserError(f'--{name}={value}: {error}') from None
  return sampler
