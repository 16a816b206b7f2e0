"""A new run from the parameters of another."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny, toy
from textdiffusion.core.types import UserError
from textdiffusion.data.tokenizers import Bytes
from textdiffusion.training.checkpoint import load
from textdiffusion.training.initial import (
  check_shapes,
  find_origin,
  find_start,
  start_from,
)
from textdiffusion.training.loop import train
from textdiffusion.training.mesh import MeshConfig, make_mesh
from textdiffusion.training.workdir import Run, prepare_workdir

TOKENIZER = Bytes(['mask']).to_json()
RUN = Run({'data': {'source': 'a'}}, TOKENIZER, {'fingerprint': 'x'})


@pytest.fixture(scope='module')
def parent(tmp_path_factory):
  """A run with checkpoints of steps 3 and 6, whose method counts its calls."""
  folder = tmp_path_factory.mktemp('parent') / 'run'
  toy.run(workdir=folder, run=RUN, method=counting(2))
  return folder


def counting(size):
  """A method with a state: [size] numbers, of how many steps were taken."""

  class Counter:
    init = lambda self, facts: {'count': jnp.zeros(size)}
    before_step = lambda self, old, facts, step: {'count': old['count'] + 1}
    after_step = lambda self, state, batch, terms: state

  return tiny.METHOD._replace(state=Counter())


def begin(origin, method, **settings):
  """The state that a run starts from, and the one it ends with."""
  first = {}

  def initial(fresh):
    state = start_from(origin, fresh)
    first.update(jax.device_get(state)._asdict())
    return state

  config = dataclasses.replace(tiny.CONFIG, **settings)
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  args = method, toy.NETWORK, tiny.Batches(), config, mesh
  return first, functools.partial(train, *args, initial=initial)


def test_it_takes_parameters_and_method_state(parent, tmp_path, capsys):
  """Averaged ones, for both the parameters and their average; the rest is as
  at the first step of any run. A resumed run does not start over."""
  origin = find_origin(str(parent))
  assert origin.path == parent / 'checkpoints' / '6' and origin.run == RUN
  first, go = begin(origin, counting(2), steps=2)
  state = go(workdir=str(tmp_path), run=RUN)
  saved = load(str(parent))
  assert tiny.same(first['params'], saved.params)
  assert tiny.same(first['ema'], saved.params)
  assert (first['step'], int(state.step)) == (0, 2)
  assert not any(np.any(x) for x in jax.tree.leaves(first['opt_state']))
  assert first['method_state']['count'].tolist() == [6, 6]
  out = capsys.readouterr().out
  assert f'the parameters of {parent}/checkpoints/6 and method state' in out
  go(workdir=str(tmp_path), run=RUN)
  assert 'started from' not in capsys.readouterr().out


def test_a_method_state_of_another_shape_starts_afresh(parent, capsys):
  origin = find_origin(f'{parent}/checkpoints/3')
  first, go = begin(origin, counting(3), steps=1)
  go()
  assert first['method_state']['count'].tolist() == [0, 0, 0]
  assert tiny.same(first['params'], load(f'{parent}/checkpoints/3').params)
  assert 'the method starts afresh' in capsys.readouterr().out


def test_another_network_is_refused(parent):
  wide = {
    'embedding': jax.ShapeDtypeStruct((12, 8), jnp.float32),
    'head': {'bias': jax.ShapeDtypeStruct((12,), jnp.float32)},
  }
  with pytest.raises(UserError) as caught:
    check_shapes(find_origin(str(parent)), wide)
  message = str(caught.value)
  assert 'embedding: [12, 16] there, [12, 8] here' in message
  assert 'head/bias: missing there, [12] here' in message
  assert 'head/kernel: [16, 12] there, missing here' in message


def test_nothing_to_start_from(parent, tmp_path):
  with pytest.raises(UserError, match='no checkpoint at'):
    find_origin(str(tmp_path))
  with pytest.raises(UserError, match='step 4 .*: it has those of 3, 6'):
    find_origin(f'{parent}/checkpoints/4')


def test_a_run_remembers_where_it_started(parent, tmp_path):
  workdir = tmp_path / 'run'
  start = find_start(str(workdir), True, str(parent))  # --resume of nothing
  assert start.origin.step == 6 and start.tokenizer.to_json() == TOKENIZER
  facts = start.facts['init_from']
  assert facts['checkpoint'] == f'{parent}/checkpoints/6'
  assert facts['data'] == {'fingerprint': 'x'}
  run = RUN._replace(data={**RUN.data, **start.facts})
  prepare_workdir(str(workdir), run).close()
  # Until it has a checkpoint, it starts there again, with the flag or not.
  for given in (None, str(parent), f'{parent}/checkpoints/6'):
    again = find_start(str(workdir), True, given)
    assert again.origin.step == 6 and again.facts == start.facts
  with pytest.raises(UserError, match='started from .*checkpoints/6: leave'):
    find_start(str(workdir), True, f'{parent}/checkpoints/3')
  (workdir / 'checkpoints' / '1').mkdir(parents=True)
  later = find_start(str(workdir), True, None)
  assert later.origin is None and later.facts == start.facts
  assert later.tokenizer.to_json() == TOKENIZER


def test_a_run_that_started_afresh_takes_no_other(parent, tmp_path):
  prepare_workdir(str(tmp_path), RUN).close()
  with pytest.raises(UserError, match='started from fresh parameters'):
    find_start(str(tmp_path), True, str(parent))
  assert json.loads((tmp_path / 'data.json').read_text()) == RUN.data


def test_a_run_does_not_start_in_its_own_folder(parent):
  with pytest.raises(UserError, match='a folder of its own'):
    find_start(str(parent), False, str(parent))
