"""Reports of compiled steps, of the devices at hand: no compiler of TPUs."""

import dataclasses

import jax
import pytest

from launch import pods
from textdiffusion.config import load
from textdiffusion.training import ahead
from textdiffusion.training.chips import CHIPS
from textdiffusion.training.hlo import Collective

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
  told = pods.tell(config, CHIP, jax.devices()[:1], 310, what)
  assert told['fits'] and told['chips'] == 1 and told['warnings'] == []
  numbers = 4 if what == 'train' else 1  # of four bytes, for each parameter
  state = 4 * numbers * told['parameters']
  assert state <= told['bytes_by_kind']['arguments'] < 1.2 * state + 5000
  assert told['collective_bytes'] == 0
  assert told['predicted_step_s'] == max(told['seconds'].values())
  assert told['serial_step_s'] == sum(told['seconds'].values())


@pytest.mark.parametrize(
  'path', ['seqdiffuseq.py:toy_pairs', 'mdlm.py:toy_pairs']
)
def test_sources_are_part_of_a_step(path):
  told = pods.tell(small(path), CHIP, jax.devices()[:1], 100, 'train')
  assert told['fits'] and told['model_flops'] > 0


def test_what_is_too_large_says_by_how_much():
  tiny = dataclasses.replace(CHIP, memory=1000.0)
  config = small('mdlm.py:toy_grammar')
  told = pods.tell(config, tiny, jax.devices()[:1], 310, 'train')
  assert not told['fits'] and 'GiB a chip, which has 0' in told['reason']
  assert 'tokens_per_s_per_chip' not in told


@pytest.mark.parametrize(
  ('kind', 'sizes', 'where', 'said'),
  [
    ('all-gather', (4, 8, 90), 'head/dot_general', 'over the vocabulary'),
    ('all-gather', (16, 90), 'head/convert_element_type', ''),
    ('all-gather', (4, 8, 16), 'mlp/dot_general', ''),
    ('all-reduce', (4, 8, 16), 'mlp/dot_general', 'by an all-reduce'),
    ('reduce-scatter', (4, 8, 16), 'mlp/dot_general', ''),
  ],
)
def test_what_is_not_meant_is_warned_of(kind, sizes, where, said):
  step = ahead.Work(1.0, 1.0, 1.0, sent=4e9)
  one = Collective(kind, (('bf16', sizes),), 4, 1, where, 4e9)
  warnings = ahead._warned([one], step, '', 90)['warnings']
  assert [said in warning for warning in warnings] == [True] * bool(said)


def test_too_much_and_what_the_compiler_says():
  step = ahead.Work(1.0, 1.0, 1.0, sent=1e9)
  one = Collective('all-gather', (('bf16', (8,)),), 4, 1, 'x', 2e9)
  line = '[SPMD] Involuntary full rematerialization. The compiler cannot'
  warnings = ahead._warned([one], step, line, 90)['warnings']
  assert '2.0 times the 1.00' in warnings[0]
  assert warnings[1] == '1 involuntary full rematerialization(s)'
