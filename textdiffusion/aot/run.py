"""Compiles the step of a config for a slice and reports on it."""

from collections.abc import Sequence
from typing import Any

import jax

from textdiffusion import config as config_lib
from textdiffusion.aot import report
from textdiffusion.core.types import UserError, Vocab
from textdiffusion.nn.transformer import num_params
from textdiffusion.training.chips import Chip
from textdiffusion.training.mesh import check_batch, make_mesh

_SIZES = {'bytes': 256, 'characters': 27}


class _Tokenizer:
  """A stand-in for a tokenizer of a given size, which needs no model file."""

  def __init__(self, size: int, multiple: int):
    size += -(size + 4) % multiple
    self.vocab = Vocab(size + 4, size + 3, size, size + 1, size + 2)


def compile_step(
  config: config_lib.Config,
  chip: Chip,
  devices: Sequence[jax.Device],
  size: int,
  what: str,
) -> dict[str, Any]:
  """Compiles a step and reports on it, see `report.report`.

  Args:
    config: the config of the run.
    chip: the chip of the slice.
    devices: the devices of the slice, which need not exist.
    size: tokens in the vocabulary, without specials; 0 uses the config's.
    what: the step to compile, 'train' or 'sample'.

  Raises:
    UserError: the size is unknown, or the config does not fit the slice.
  """
  tokenizer: Any = config.data.tokenizer
  size = size or tokenizer.vocab_size or _SIZES.get(tokenizer.kind, 0)
  if not size:
    raise UserError('--vocab_size is missing: the config does not have it')
  mesh = make_mesh(config.mesh, devices)
  data, train = config.data, config.train
  check_batch(mesh, data.batch_size, train.accumulate)
  stand_in: Any = _Tokenizer(size, tokenizer.multiple)
  method, network = config_lib.build(config, stand_in)
  count, is_training = num_params(network), what == 'train'
  step = report.work(config.model, method, count, mesh, data, is_training)

  def lower() -> jax.stages.Lowered:
    if is_training:
      return report.lower_train(method, network, train, mesh, data)
    return report.lower_sample(method, network, mesh, data)

  found = report.report(lower, chip, mesh, step, method.needs.width)
  tokens = stand_in.vocab.size
  if 'warnings' in found and tokens % 128 and tokens > 1024:
    found['warnings'].append(
      f'a vocabulary of {tokens:,} divides badly among chips: '
      '--set=data.tokenizer.multiple=128'
    )
  if 'warnings' in found and is_training and config.model.remat == 'offload':
    found['warnings'].append(
      'model.remat=offload: time to the memory of the host and back is not in '
      'the prediction'
    )
  facts = {
    'parameters': count,
    'mesh': {name: mesh.shape[name] for name in mesh.axis_names},
    'rows': data.batch_size,
    'length': data.length,
  }
  if found['fits']:
    per_chip = data.batch_size * data.length / found['chips']
    facts['tokens_per_s_per_chip'] = per_chip / found['predicted_step_s']
  return {**facts, **found}
