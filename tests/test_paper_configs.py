"""Recipes at the scale of a paper: their size, their source, what differs.

The comment above such a recipe states

  Parameters: 169.8M, embeddings and head included.
  Source: paper; repository, commit, file.
  Differences: everything in which it still differs from them.

The count is that of all learnt numbers, of the method's own too, with the
vocabulary of the recipe's tokenizer and the special tokens that this project
adds. It is exact to a tenth of a million. A number in a recipe's name is the
same count rounded, at most 2% off, so that a paper's own round figure may stay.
"""

import dataclasses
import functools
import inspect
import re
import sys

import numpy as np
import pytest

from tests.recipes import CONFIGS, PAPER, SMALL, TEXTS
from textdiffusion import recipes
from textdiffusion.config import Config, build, to_json
from textdiffusion.config_files import bundled_files, read_all
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import SPECIALS, Tokenizer
from textdiffusion.nn.transformer import TransformerConfig, num_params
from textdiffusion.training.optim import OptimizerConfig
from textdiffusion.training.state import TrainConfig

NAMED = [name for name in PAPER if re.search(r'_\d+[mb]$', name)]

# Ids of a tokenizer file, and whether it has pieces for the special tokens; if
# not, the four of them are added.
TOKENIZERS = {
  'bert': (30_522, True),
  'gpt2': (50_257, False),
  'roberta': (50_265, True),
  'llada': (126_349, False),
  'plaid': (32_768, False),
  'c4': (32_000, False),
  'characters': (27, False),
  'pieces_8192': (8_192, False),
  'pieces_10000': (10_000, False),
  # Words that occur more than ten times, and <unk>.
  'words_e2e': (818, False),
  'words_roc': (11_040, False),
}
# By the name of a recipe: the first entry that it contains.
USED = {
  'autoregressive:c4': 'llada',
  'llada:c4_162m': 'gpt2',
  'llada': 'llada',
  'd3pm:lm1b': 'pieces_8192',
  'lm1b': 'bert',
  'qqp': 'bert',
  'text8': 'characters',
  'cdcd:c4': 'c4',
  'openwebtext2': 'plaid',
  'ssd_lm': 'roberta',
  'openwebtext': 'gpt2',
  'fineweb': 'gpt2',
  'e2e': 'words_e2e',
  'rocstories': 'words_roc',
  'iwslt14': 'pieces_10000',
}


class Sized(Tokenizer):
  """A tokenizer of which only the size matters."""

  def _base_lengths(self) -> np.ndarray:
    return np.ones(self.base_size, np.int32)


@functools.cache
def parameters(name: str) -> int:
  """All learnt numbers of a recipe, from shapes alone."""
  config = CONFIGS[name]
  size, has_specials = TOKENIZERS[
    next(USED[part] for part in USED if part in name)
  ]
  own = {special: i for i, special in enumerate(SPECIALS)}
  tokenizer = Sized(
    size,
    config.data.tokenizer.specials,
    own if has_specials else {},
    config.data.tokenizer.multiple,
  )
  return num_params(build(config, tokenizer).network)


def count_stated(name: str) -> list[str]:
  return re.findall(
    r'^Parameters: ([\d,]+\.\d)M, embeddings and head included\.$',
    TEXTS[name],
    re.M,
  )


@pytest.mark.parametrize('name', PAPER)
def test_the_comment_states_the_parameters(name):
  (found,) = count_stated(name)
  assert float(found.replace(',', '')) == round(parameters(name) / 1e6, 1)


def test_small_recipes_state_none():
  assert len(PAPER) > 25 and len(NAMED) > 3
  assert not [name for name in SMALL if count_stated(name)]


@pytest.mark.parametrize('name', NAMED)
def test_the_name_states_the_parameters(name):
  number, unit = re.search(r'_(\d+)([mb])$', name).groups()
  stated = int(number) * {'m': 1e6, 'b': 1e9}[unit]
  assert stated == pytest.approx(parameters(name), rel=0.02)


@pytest.mark.parametrize('name', PAPER)
def test_the_comment_names_source_and_differences(name):
  text = TEXTS[name]
  for start in ('Source: ', 'Differences: '):
    found = re.findall(rf'^{start}(\S.*)', text, re.M)
    assert len(found) == 1 and len(found[0]) > 10, start
  assert text.index('\nSource: ') < text.index('\nDifferences: ')


# Other values for the defaults of what papers disagree on.
OTHERWISE = {
  OptimizerConfig: {
    'peak_lr': 0.123,
    'warmup_steps': 123,
    'schedule': 'wsd',
    'b2': 0.123,
    'weight_decay': 0.123,
  },
  TrainConfig: {
    'steps': 123,
    'ema': 0.123,
    'optimizer': OptimizerConfig(b2=0.123),
  },
  TransformerConfig: {
    'num_layers': 123,
    'd_model': 120,
    'num_heads': 2,
    'd_ff': 123,
    'qk_norm': False,
  },
  DataConfig: {'length': 123, 'batch_size': 123},
  Config: {
    'data': DataConfig(length=123),
    'model': TransformerConfig(num_layers=123),
    'train': TrainConfig(steps=123),
  },
}


@pytest.fixture(scope='module')
def under_other_defaults():
  """The recipes, built while defaults have other values."""
  with pytest.MonkeyPatch.context() as patch:
    for kind, values in OTHERWISE.items():
      names = [field.name for field in dataclasses.fields(kind)]
      init = inspect.unwrap(kind.__init__)  # tests check annotations around it
      usual = init.__defaults__
      defaults = dict(zip(names[-len(usual) :], usual))
      assert all(defaults[name] != values[name] for name in values)
      patch.setattr(init, '__defaults__', (*(defaults | values).values(),))
    # So that they are built anew.
    patch.delitem(sys.modules, 'textdiffusion.recipes.presets')
    patch.delattr(recipes, 'presets')
    yield {
      f'{method}:{name}': config
      for method, path in bundled_files().items()
      for name, config in read_all(str(path), Config).items()
    }


@pytest.mark.parametrize('name', PAPER)
def test_what_papers_disagree_on_is_written_out(name, under_other_defaults):
  """Defaults of this project are those of small runs, not of a paper."""
  for part in ('data', 'model', 'train'):
    want = to_json(getattr(CONFIGS[name], part))
    assert to_json(getattr(under_other_defaults[name], part)) == want


def test_a_default_would_be_found(under_other_defaults):
  """Of constants in presets.py, and of what is built by its functions."""
  changed = under_other_defaults['mdlm:python_docs']
  assert (changed.model.num_layers, changed.model.d_ff) == (6, 123)
  assert (changed.train.steps, changed.train.optimizer.b2) == (5000, 0.123)


def test_the_count_includes_everything():
  """By hand, a network of 12 layers of 768 that does not see the time."""
  size, width = 50_257 + 4, 768
  layer = 4 * width**2 + 2 * width * 3072 + 3072 + width + 2 * width
  want = 12 * layer + 2 * size * width + width
  assert parameters('radd:openwebtext') == want
