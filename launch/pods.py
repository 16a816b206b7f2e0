"""For `launch.compile`: a config and a slice to a report."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError, Vocab
from textdiffusion.nn.transformer import num_params
from textdiffusion.training import ahead
from textdiffusion.training.chips import Chip
from textdiffusion.training.mesh import candidates, check_batch, make_mesh

_SIZES = {'bytes': 256, 'characters': 27}


class _Tokenizer:
  """Stands for one of a size: no file of it is needed."""

  def __init__(self, size: int):
    self.vocab = Vocab(size + 4, size + 3, size, size + 1, size + 2)


def tell(
  config: config_lib.Config,
  chip: Chip,
  devices: Sequence[Any],
  size: int,
  what: str,
) -> dict[str, Any]:
  """What `ahead.report` tells, and of what; size: of the vocabulary, or 0;
  what: train or sample."""
  tokenizer: Any = config.data.tokenizer
  size = size or tokenizer.vocab_size or _SIZES.get(tokenizer.kind, 0)
  if not size:
    raise UserError('--vocab_size is missing: the config does not tell it')
  mesh = make_mesh(config.mesh, devices)
  data, train = config.data, config.train
  check_batch(mesh, data.batch_size, train.accumulate)
  made: Any = _Tokenizer(size)
  method, denoiser = config_lib.build(config, made)
  count, is_training = num_params(denoiser), what == 'train'
  step = ahead.work(config.model, method, count, mesh, data, is_training)

  def lower() -> Any:
    if is_training:
      return ahead.lower_train(method, denoiser, train, mesh, data)
    return ahead.lower_sample(method, denoiser, config.sample, mesh, data)

  told = ahead.report(lower, chip, mesh, step, method.width)
  facts = {
    'parameters': count,
    'mesh': {name: mesh.shape[name] for name in mesh.axis_names},
    'rows': data.batch_size,
    'length': data.length,
  }
  if told['fits']:
    per_chip = data.batch_size * data.length / told['chips']
    facts['tokens_per_s_per_chip'] = per_chip / told['predicted_step_s']
  return {**facts, **told}


def sweep(
  config: config_lib.Config, count: int, tell: Callable[..., dict[str, Any]]
) -> list[dict[str, Any]]:
  """What `tell` says of meshes of `count` devices with 1, 2 and 4 rows for
  each, the most tokens a second first; each is told on stderr when it is done.
  More rows than what does not fit are not tried.
  """
  found = []
  meshes = list(candidates(count))
  for number, mesh in enumerate(meshes, 1):
    for each in (1, 2, 4):
      rows = each * count * config.train.accumulate
      data = dataclasses.replace(config.data, batch_size=rows)
      began = time.monotonic()
      one: dict[str, Any]
      try:
        one = tell(dataclasses.replace(config, mesh=mesh, data=data))
      except UserError as error:  # this mesh cannot hold this network
        one = {'mesh': dataclasses.asdict(mesh), 'rows': rows, 'fits': False}
        one['reason'] = str(error)
      found.append(one)
      print(
        f'mesh {number} of {len(meshes)}, {rows} rows: '
        + ('fits' if one['fits'] else one['reason'])
        + f' ({time.monotonic() - began:.0f} s)',
        file=sys.stderr,
      )
      if not one['fits']:
        break
  return sorted(found, key=lambda one: -one.get('tokens_per_s_per_chip', 0.0))
