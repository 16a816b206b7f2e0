"""Every config file loads, survives JSON, and trains a step when shrunk.

Those of a paper's scale only trace that step: what they choose beside sizes is
compiled and run in the small ones and in the tests of their methods.
"""

import dataclasses
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from textdiffusion.config import build, from_json, load, to_json
from textdiffusion.core.types import Vocab
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.state import init_state
from textdiffusion.training.step import make_train_step

pytestmark = pytest.mark.usefixtures('quick_compile')
ROOT = Path(__file__).parent.parent
SMALL = ('_tiny', '_demo', '_neighbors')
CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))


class AnyTokenizer:
  """Stands for the tokenizer of any config: 40 ids, the specials last."""

  vocab = Vocab(40, mask_id=39, bos_id=36, eos_id=37, pad_id=38)


def shrunk(config):
  """The same choices at a size that steps in a moment."""
  return dataclasses.replace(
    config,
    model=dataclasses.replace(
      config.model,
      num_layers=1,
      d_model=16,
      num_heads=2,
      num_kv_heads=1 if config.model.num_kv_heads else None,
      d_ff=32,
      dtype='float32',
      encoder_layers=min(config.model.encoder_layers, 1),
    ),
    train=dataclasses.replace(config.train, steps=2),
  )


def test_there_are_configs_of_every_method():
  methods = {
    path.stem for path in (ROOT / 'textdiffusion' / 'methods').glob('*.py')
  } - {'__init__', 'method'}
  assert methods <= {path.parent.name for path in CONFIGS}


@pytest.mark.parametrize(
  'path', CONFIGS, ids=lambda path: f'{path.parent.name}/{path.stem}'
)
def test_config(path):
  assert re.fullmatch(r'[a-z0-9_]+_[a-z0-9]+', path.stem), 'data_size'
  docstring = path.read_text().split('"""')[1]
  assert f'--config=configs/{path.parent.name}/{path.name}' in docstring
  config = load(str(path))
  assert from_json(to_json(config)) == config

  config = shrunk(config)
  method, network = build(config, AnyTokenizer())
  optimizer = build_optimizer(config.train.optimizer, config.train.steps)
  init = lambda key: init_state(method, network, optimizer, key)
  rows, length = 2 * config.train.accumulate, method.needs.length or 8
  ids = np.random.default_rng(0).integers(0, 36, (rows, length), np.int32)
  batch = {
    'ids': ids,
    'segments': np.ones_like(ids),
    'positions': np.tile(np.arange(length, dtype=np.int32), (rows, 1)),
    'rows': np.arange(rows, dtype=np.int32),
  }
  if config.data.rows == 'joined':
    batch['is_given'] = np.arange(length) < np.full((rows, 1), 3)
  if config.data.rows == 'separate':
    batch |= {'source': ids, 'source_segments': np.ones_like(ids)}
  step = make_train_step(method, network, optimizer, config.train)
  if not path.stem.endswith(SMALL):
    state = jax.eval_shape(init, jax.random.key(0))
    _, metrics = jax.eval_shape(step, state, batch)
    assert metrics['loss'].shape == ()
    return
  state, step = init(jax.random.key(0)), jax.jit(step)
  state, metrics = step(state, batch)
  state, metrics = step(state, batch)
  assert math.isfinite(metrics['loss']) and not metrics['skipped']
