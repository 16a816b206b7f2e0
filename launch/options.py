"""Checks of flags and settings: refuses those that would have no effect."""

import contextlib
from collections.abc import Collection, Iterable
from typing import Any

from absl import flags

from textdiffusion.api.text_model import TextModel
from textdiffusion.core.types import UserError
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.options import shortened, with_options

from . import common

FLAGS = flags.FLAGS


def refuse(names: Iterable[str], reason: str) -> None:
  """Raises UserError if one of these flags is given."""
  for name in names:
    if FLAGS[name].present:
      raise UserError(f'--{name}={FLAGS[name].value}: {reason}; leave it out')


def refuse_settings(prefixes: Collection[str], reason: str) -> None:
  """Raises UserError if a --set changes a field with one of these prefixes.

  Args:
    prefixes: `train.` stands for a whole group, `train.steps=` for one field.
    reason: why the setting has no effect.
  """
  for setting in common.SET.value:
    name = setting.partition('=')[0]
    if f'{name}='.startswith(tuple(prefixes)) or f'{name}.' in prefixes:
      raise UserError(f'--set={setting}: {reason}; leave it out')


def refuse_empty(*names: str) -> None:
  """Raises UserError if a flag has an empty value, such as `--out=`."""
  for name in names:
    if FLAGS[name].present and not FLAGS[name].value:
      raise UserError(f'--{name}= names nothing: give a value, or leave it out')


def check_checkpoint() -> None:
  """Checks the flags that name a checkpoint."""
  refuse_empty('checkpoint', 'workdir', 'config')
  if FLAGS['checkpoint'].present:
    refuse(['workdir'], '--checkpoint is given too, and is what is read')


def sampler_of(
  model: TextModel, steps: int | None, temperature: float | None
) -> Sampler:
  """Returns the sampler of a model with --steps and --temperature applied.

  Args:
    model: the model.
    steps: value of --steps, None if it is not given.
    temperature: value of --temperature, None if it is not given.

  Raises:
    UserError: the sampler does not have such an option.
  """
  sampler = model.parts.method.sampler
  changes: dict[str, Any] = {'steps': steps, 'temperature': temperature}
  for name, value in changes.items():
    try:
      sampler = with_options(sampler, **{name: value})
    except UserError as error:
      way_out = ''
      with contextlib.suppress(UserError):  # The default may lack it as well.
        default = model.config.method.default_sampler
        other = shortened(with_options(default, **{name: value}))
        way_out = f", or give --set=sampler='{other}'"
      raise UserError(f'--{name}={value}: {error}{way_out}') from None
  return sampler
