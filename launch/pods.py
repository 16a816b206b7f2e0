"""For `launch.compile`: a config and a slice to a report."""

from collections.abc import Sequence
from typing import Any

from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError, Vocab
from textdiffusion.nn.transformer import num_params
from textdiffusion.training import ahead
from textdiffusion.training.chips import Chip
from textdiffusion.training.mesh import check_batch, make_mesh

_SIZES = {'bytes': 256, 'characters': 27}


class _Tokenizer:
  """Stands for one of a size: no file of it is needed."""

  def __init__(self, size: int, multiple: int):
    size += -(size + 4) % multiple
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
  made: Any = _Tokenizer(size, tokenizer.multiple)
  method, network = config_lib.build(config, made)
  count, is_training = num_params(network), what == 'train'
  step = ahead.work(config.model, method, count, mesh, data, is_training)

  def lower() -> Any:
    if is_training:
      return ahead.lower_train(method, network, train, mesh, data)
    return ahead.lower_sample(method, network, mesh, data)

  told = ahead.report(lower, chip, mesh, step, method.needs.width)
  tokens = made.vocab.size
  if 'warnings' in told and tokens % 128 and tokens > 1024:
    told['warnings'].append(
      f'a vocabulary of {tokens:,} divides badly among chips: '
      '--set=data.tokenizer.multiple=128'
    )
  if 'warnings' in told and is_training and config.model.remat == 'offload':
    told['warnings'].append(
      'model.remat=offload: time to the memory of the host and back is not in '
      'the prediction'
    )
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
