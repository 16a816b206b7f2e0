"""Configs at the scale of a paper: their size, their source, what differs.

A config counts as one of a paper's scale if its name does not end as those of
the small ones. Its docstring states

  Parameters: 169.8M, embeddings and head included.
  Source: paper; repository, commit, file.
  Differences: everything in which it still differs from them.

The count is that of all learnt numbers, of the method's own too, with the
vocabulary of the config's tokenizer and the special tokens that this project
adds. It is exact to a tenth of a million. The number in a file name is the
same count rounded, at most 2% off, so that a paper's own round figure may stay.
"""

import ast
import functools
import re
from pathlib import Path

import numpy as np
import pytest

from textdiffusion.config import build, load
from textdiffusion.data.tokenizers import SPECIALS, Tokenizer
from textdiffusion.nn.transformer import num_params

ROOT = Path(__file__).parent.parent
SMALL = ('_tiny', '_demo', '_neighbors')
CONFIGS = {
  f'{path.parent.name}/{path.stem}': path
  for path in sorted((ROOT / 'configs').rglob('*.py'))
  if not path.stem.endswith(SMALL)
}
NAMED = [name for name in CONFIGS if re.search(r'_\d+[mb]$', name)]

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
# By the name of a config: the first entry that it contains.
USED = {
  'autoregressive/c4': 'llada',
  'llada/c4_162m': 'gpt2',
  'llada': 'llada',
  'd3pm/lm1b': 'pieces_8192',
  'lm1b': 'bert',
  'qqp': 'bert',
  'text8': 'characters',
  'cdcd/c4': 'c4',
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
  """All learnt numbers of a config, from shapes alone."""
  config = load(str(CONFIGS[name]))
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


def docstring(name: str) -> str:
  text = ast.get_docstring(ast.parse(CONFIGS[name].read_text()))
  assert text
  return text


@pytest.mark.parametrize('name', CONFIGS)
def test_the_docstring_states_the_parameters(name):
  found = re.findall(
    r'^Parameters: ([\d,]+\.\d)M, embeddings and head included\.$',
    docstring(name),
    re.M,
  )
  assert len(found) == 1
  count = float(found[0].replace(',', ''))
  assert count == round(parameters(name) / 1e6, 1)


@pytest.mark.parametrize('name', NAMED)
def test_the_name_states_the_parameters(name):
  number, unit = re.search(r'_(\d+)([mb])$', name).groups()
  stated = int(number) * {'m': 1e6, 'b': 1e9}[unit]
  assert stated == pytest.approx(parameters(name), rel=0.02)


@pytest.mark.parametrize('name', CONFIGS)
def test_the_docstring_names_source_and_differences(name):
  text = docstring(name)
  for start in ('Source: ', 'Differences: '):
    found = re.findall(rf'^{start}(\S.*)', text, re.M)
    assert len(found) == 1 and len(found[0]) > 10, start
  assert text.index('\nSource: ') < text.index('\nDifferences: ')


@pytest.mark.parametrize('name', CONFIGS)
def test_what_papers_disagree_on_is_written_out(name):
  """Defaults of this project are those of small runs, not of a paper."""
  calls = {
    node.func.id: {keyword.arg for keyword in node.keywords}
    for node in ast.walk(ast.parse(CONFIGS[name].read_text()))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
  }
  optimizer = {'peak_lr', 'warmup_steps', 'schedule', 'b2', 'weight_decay'}
  assert optimizer <= calls['OptimizerConfig']
  assert {'steps', 'ema'} <= calls['TrainConfig']
  model = {'num_layers', 'd_model', 'num_heads', 'd_ff', 'qk_norm'}
  assert model <= calls['TransformerConfig']
  assert {'length', 'batch_size'} <= calls['DataConfig']


def test_the_count_includes_everything():
  """By hand, a network of 12 layers of 768 that does not see the time."""
  size, width = 50_257 + 4, 768
  layer = 4 * width**2 + 2 * width * 3072 + 3072 + width + 2 * width
  want = 12 * layer + 2 * size * width + width
  assert parameters('radd/openwebtext_162m') == want
