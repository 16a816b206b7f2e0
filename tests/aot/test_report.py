"""Reports of compiled steps, of the devices at hand: no compiler of TPUs."""

import dataclasses

import jax
import pytest

from textdiffusion.aot import report, run
from textdiffusion.aot.hlo import Collective
from textdiffusion.config import load
from textdiffusion.training.chips import CHIPS

pytestmark = pytest.mark.usefixtures('quick_compile')
CHIP = CHIPS['v5e']


def small(path):
  """A config whose step compiles in a moment."""
  config = load(f'configs/{path}')
  model = dataclasses.replace(
    config.model, num_layers=1, d_model=16, num_heads=2, d_ff=32
  )
  data = dataclasses.replace(config.data, batch_size=4)
  return dataclasses.replace(config, model=model, data=data)


@pytest.mark.parametrize('what', ['train', 'sample'])
def test_what_a_step_needs(what):
  config = small('mdlm.py:toy_grammar')
  found = run.compile_step(config, CHIP, jax.devices()[:1], 310, what)
  assert found['fits'] and found['chips'] == 1 and found['warnings'] == []
  numbers = 4 if what == 'train' else 1  # of four bytes, for each parameter
  state = 4 * numbers * found['parameters']
  assert state <= found['bytes_by_kind']['arguments'] < 1.2 * state + 5000
  assert found['collective_bytes'] == 0
  assert found['predicted_step_s'] == max(found['seconds'].values())
  assert found['serial_step_s'] == sum(found['seconds'].values())


@pytest.mark.parametrize(
  'path', ['seqdiffuseq.py:toy_pairs', 'mdlm.py:toy_pairs']
)
def test_sources_are_part_of_a_step(path):
  found = run.compile_step(small(path), CHIP, jax.devices()[:1], 100, 'train')
  assert found['fits'] and found['model_flops'] > 0


def test_what_is_too_large_says_by_how_much():
  tiny = dataclasses.replace(CHIP, memory=1000.0)
  config = small('mdlm.py:toy_grammar')
  found = run.compile_step(config, tiny, jax.devices()[:1], 310, 'train')
  assert not found['fits'] and 'GiB per chip, which has 0' in found['reason']
  assert 'tokens_per_s_per_chip' not in found


@pytest.mark.parametrize(
  ('kind', 'sizes', 'where', 'words'),
  [
    ('all-gather', (4, 8, 90), 'head/dot_general', 'over the vocabulary'),
    ('all-gather', (16, 90), 'head/convert_element_type', ''),
    ('all-gather', (4, 8, 16), 'mlp/dot_general', ''),
    ('all-reduce', (4, 8, 16), 'mlp/dot_general', 'by an all-reduce'),
    ('reduce-scatter', (4, 8, 16), 'mlp/dot_general', ''),
  ],
)
def test_what_no_layout_expects_is_warned_of(kind, sizes, where, words):
  step = report.Work(1.0, 1.0, 1.0, sent=4e9)
  one = Collective(kind, (('bf16', sizes),), 4, 1, where, 4e9)
  warnings = report._warnings([one], step, '', 90)
  assert [words in warning for warning in warnings] == [True] * bool(words)


def test_too_much_and_what_the_compiler_says():
  step = report.Work(1.0, 1.0, 1.0, sent=1e9)
  one = Collective('all-gather', (('bf16', (8,)),), 4, 1, 'x', 2e9)
  line = '[SPMD] Involuntary full rematerialization. The compiler cannot'
  warnings = report._warnings([one], step, line, 90)
  assert '2.0 times the 1.00' in warnings[0]
  assert warnings[1] == '1 involuntary full rematerialization(s)'
