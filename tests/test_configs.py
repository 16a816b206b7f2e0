"""Every recipe survives JSON, and trains a step when shrunk.

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

from tests.recipes import CONFIGS, PAPER, SMALL, TEXTS
from textdiffusion.config import build, from_json, load, to_json
from textdiffusion.config_files import bundled_files
from textdiffusion.core.types import Vocab
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.state import init_state
from textdiffusion.training.step import make_train_step

pytestmark = pytest.mark.usefixtures('quick_compile')
ROOT = Path(__file__).parent.parent


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


def test_every_method_has_a_small_recipe():
  methods = {
    path.stem for path in (ROOT / 'textdiffusion' / 'methods').glob('*.py')
  } - {'__init__', 'method'}
  assert methods <= {name.partition(':')[0] for name in SMALL}
  assert set(SMALL) | set(PAPER) == set(CONFIGS) == set(TEXTS)


def test_configs_are_short():
  files = [*bundled_files().values(), ROOT / 'configs' / 'presets.py']
  assert {*files} == {*(ROOT / 'configs').rglob('*.py')}
  lines = [line for path in files for line in path.read_text().splitlines()]
  assert 700 < len(lines) <= 1200


@pytest.mark.parametrize('name', CONFIGS)
def test_a_recipe_is_named_described_and_loads(name):
  method, recipe = name.split(':')
  assert re.fullmatch(r'[a-z0-9]+(_[a-z0-9]+)*', recipe)
  title = TEXTS[name].partition('\n')[0]
  assert 5 < len(title) <= 64 and not title.endswith('.')
  config = load(f'configs/{method}.py:{recipe}')
  assert config == CONFIGS[name]
  assert from_json(to_json(config)) == config


def traced(name):
  """The step of a shrunk recipe, its initial state and a batch."""
  config = shrunk(CONFIGS[name])
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
  return make_train_step(method, network, optimizer, config.train), init, batch


def types_of(state):
  """What a step is compiled for: if it changes, so is the second step."""
  leaves = jax.tree_util.tree_leaves_with_path(state)
  return {
    jax.tree_util.keystr(path): (x.shape, x.dtype, x.weak_type)
    for path, x in leaves
  }


@pytest.mark.parametrize('name', SMALL)
def test_a_small_recipe_trains(name):
  step, init, batch = traced(name)
  state, step = jax.jit(init)(jax.random.key(0)), jax.jit(step)
  begun = types_of(state)
  state, metrics = step(state, batch)
  assert types_of(state) == begun
  state, metrics = step(state, batch)
  assert math.isfinite(metrics['loss']) and not metrics['skipped']


@pytest.mark.parametrize('name', PAPER)
def test_a_step_of_a_paper_is_traced(name):
  step, init, batch = traced(name)
  state = jax.eval_shape(init, jax.random.key(0))
  after, metrics = jax.eval_shape(step, state, batch)
  assert types_of(after) == types_of(state)
  assert metrics['loss'].shape == ()
