"""More of workdirs and checkpoints: what is damaged, foreign or missing."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tests.training import tiny, toy
from textdiffusion.core.types import UserError
from textdiffusion.training import checkpoint
from textdiffusion.training.checkpoint import load
from textdiffusion.training.mesh import MeshConfig, make_mesh
from textdiffusion.training.metrics import read
from textdiffusion.training.optim import OptimizerConfig, build_optimizer
from textdiffusion.training.plain_path import check_plain
from textdiffusion.training.workdir import prepare_workdir

pytestmark = pytest.mark.usefixtures('quick_compile')


def refusal(*args, **kwargs):
  with pytest.raises(UserError) as caught:
    prepare_workdir(*args, **kwargs)
  message = str(caught.value)
  assert '\n' not in message and message.startswith(f'workdir={args[0]}')
  return message


def test_resume_and_overwrite_exclude_each_other(tmp_path):
  with pytest.raises(UserError, match='exclude each other'):
    prepare_workdir(str(tmp_path), toy.RUN, resume=True, overwrite=True)


def test_resume_begins_where_there_is_nothing(tmp_path):
  prepare_workdir(str(tmp_path / 'run'), toy.RUN, resume=True)
  assert (tmp_path / 'run' / 'tokenizer.json').exists()


def test_a_finished_run_that_is_resumed_says_how_to_go_on(tmp_path, capsys):
  toy.run(workdir=tmp_path, steps=2)
  toy.run(workdir=tmp_path, steps=2)
  line = 'already at step 2 of 2: raise train.steps to go on\n'
  assert capsys.readouterr().out.count(line) == 1


def test_messages_name_both_ways_to_resume(tmp_path):
  prepare_workdir(str(tmp_path), toy.RUN).close()
  message = refusal(str(tmp_path), toy.RUN)
  for text in ('--resume', 'resume=True', '--overwrite', 'overwrite=True'):
    assert text in message


def test_overwrite_moves_a_run_and_nothing_else(tmp_path):
  home = tmp_path / 'home'
  home.mkdir()
  (home / 'letter.txt').write_text('mine')
  prepare_workdir(str(home), toy.RUN, overwrite=True)
  assert (home / 'letter.txt').read_text() == 'mine'
  assert [p.name for p in tmp_path.iterdir()] == ['home']


def test_config_that_is_no_json(tmp_path):
  (tmp_path / 'config.json').write_text('{"a": ')
  with pytest.raises(UserError, match='config.json is not the JSON'):
    prepare_workdir(str(tmp_path), toy.RUN)


def test_checkpoints_without_a_config(tmp_path):
  (tmp_path / 'checkpoints' / '3').mkdir(parents=True)
  assert 'no config.json' in refusal(str(tmp_path), toy.RUN)


def test_the_first_differences_are_named(tmp_path):
  config = {'a': {str(i): i for i in range(5)}, 'b': 1}
  other = {'a': {str(i): i + 1 for i in range(5)}, 'c': 2}
  prepare_workdir(str(tmp_path), toy.RUN._replace(config=config))
  message = refusal(str(tmp_path), toy.RUN._replace(config=other), resume=True)
  assert '(a.0: 0 -> 1; a.1: 1 -> 2; a.2: 2 -> 3; ...)' in message


def test_a_config_of_an_older_version_is_completed(tmp_path):
  """Fields that came since are as they are by default, and no difference."""
  old, new = {'a': 1}, {'a': 1, 'b': 2}
  prepare_workdir(str(tmp_path), toy.RUN._replace(config=old))
  run = toy.RUN._replace(config=new)
  assert '(b: None -> 2)' in refusal(str(tmp_path), run, resume=True)
  complete = lambda saved: {'b': 2, **saved}
  prepare_workdir(str(tmp_path), run, resume=True, complete=complete)
  other = run._replace(config={'a': 1, 'b': 3})
  message = refusal(str(tmp_path), other, resume=True, complete=complete)
  assert '(b: 2 -> 3)' in message


@pytest.mark.parametrize(
  'part, name, is_free',
  [
    ('train', 'log_every', True),
    ('train', 'eval_every', True),
    ('train', 'checkpoint_every', True),
    ('train', 'keep', True),
    ('mesh', 'fsdp', True),
    ('train', 'steps', True),
    ('train', 'max_bad_steps', True),
    ('model', 'remat', True),
    ('model', 'd_model', False),
    ('method', 'block', False),
    ('train', 'seed', False),
    ('train', 'accumulate', False),
    ('data', 'batch_size', False),
  ],
)
def test_what_a_resumed_run_may_change(tmp_path, part, name, is_free):
  run = lambda value: toy.RUN._replace(config={part: {name: value}})
  prepare_workdir(str(tmp_path), run(1))
  if is_free:
    prepare_workdir(str(tmp_path), run(2), resume=True)
  else:
    message = refusal(str(tmp_path), run(2), resume=True)
    assert f'({part}.{name}: 1 -> 2), and the ' in message
    assert f'(init_from={tmp_path} ' in message


@pytest.mark.parametrize(
  'part, name', [('source', None), ('tokenizer', 'path')]
)
def test_the_same_data_may_lie_elsewhere(tmp_path, part, name):
  """What counts is the fingerprint, which is of contents."""
  at = lambda path: {'data': {part: {name: path} if name else path}}
  run = toy.RUN._replace(config=at('files:/a.txt'))
  prepare_workdir(str(tmp_path), run)
  moved = run._replace(config=at('files:/b.txt'))
  prepare_workdir(str(tmp_path), moved, resume=True)
  kept = json.loads((tmp_path / 'config.json').read_text())
  assert kept == at('files:/b.txt')
  other = run._replace(data={'fingerprint': 'y'})
  message = refusal(str(tmp_path), other, resume=True)
  assert 'other data (fingerprint x, now y; data.' in message
  assert 'files:/b.txt' in message
  (tmp_path / 'data.json').unlink()
  assert 'another config' in refusal(str(tmp_path), run, resume=True)


def test_a_run_cannot_end_before_its_checkpoint(tmp_path):
  run = lambda steps: toy.RUN._replace(config={'train': {'steps': steps}})
  prepare_workdir(str(tmp_path), run(9))
  (tmp_path / 'checkpoints' / '6').mkdir(parents=True)
  with pytest.raises(
    UserError, match='train.steps=5: workdir=.* of step 6: set .* 6'
  ):
    prepare_workdir(str(tmp_path), run(5), resume=True)
  prepare_workdir(str(tmp_path), run(6), resume=True)


def test_a_workdir_within_a_run(tmp_path):
  prepare_workdir(str(tmp_path), toy.RUN)
  for part in ('checkpoints', 'checkpoints/3', 'checkpoints/3/new'):
    message = refusal(str(tmp_path / part), toy.RUN)
    assert f'within the run {tmp_path}:' in message
  assert not (tmp_path / 'checkpoints').exists()


def test_more_steps_are_those_of_the_longer_run(tmp_path):
  """With a constant rate, to the bit; a schedule follows the new length."""
  constant = OptimizerConfig(warmup_steps=2, schedule='constant')
  settings = {'optimizer': constant, 'checkpoint_every': 0}
  toy.run(workdir=tmp_path / 'parts', steps=3, **settings)
  shutil.copytree(tmp_path / 'parts', tmp_path / 'cosine')
  parts = toy.run(workdir=tmp_path / 'parts', steps=6, **settings)
  assert tiny.same(parts, toy.run(steps=6, **settings))
  toy.run(workdir=tmp_path / 'cosine', steps=6)
  rates = [row['lr'] for row in read(tmp_path / 'cosine' / 'metrics.jsonl')]
  straight = build_optimizer(tiny.CONFIG.optimizer, 6).learning_rate
  expected = [straight(i) for i in (3, 4, 5)]
  np.testing.assert_allclose(rates[3:], expected, rtol=1e-6)


@pytest.mark.parametrize('name', ['[lr 3e-4] run', 'a*b?'])
def test_a_path_that_reads_as_a_pattern(tmp_path, name):
  """Orbax reads `*`, `?` and `[` in the path of a checkpoint so."""
  state = toy.run(workdir=tmp_path / name, keep=1)
  loaded = load(str(tmp_path / name))
  assert loaded.step == 6 and tiny.same(loaded.params, state.ema)
  assert loaded.workdir == tmp_path / name
  assert load(str(tmp_path / name / 'checkpoints' / '6')).step == 6


def test_several_hosts_name_plain_paths(tmp_path, monkeypatch):
  monkeypatch.setattr(jax, 'process_count', lambda: 2)
  for path in ('a[1]', 'a*', 'a?'):
    with pytest.raises(UserError, match='several hosts'):
      check_plain(tmp_path / path)
  check_plain(tmp_path / 'a{b}')


def replace_newest(folder, number):
  """What a run that keeps one checkpoint does while another reads."""
  old = max(int(p.name) for p in folder.iterdir() if p.name.isdecimal())
  shutil.copytree(folder / str(old), folder / str(number))
  shutil.rmtree(folder / str(old))


def test_a_checkpoint_that_vanishes_is_not_damaged(
  tmp_path, monkeypatch, capsys
):
  """Twice while it is read; then the newest is taken, without a warning."""
  toy.run(workdir=tmp_path, keep=1)
  folder, read_one = tmp_path / 'checkpoints', checkpoint._load_step
  numbers = [7, 8]

  def vanishing(item, folder, step, shardings):
    if numbers:
      replace_newest(folder, numbers.pop(0))
    return read_one(item, folder, step, shardings)

  monkeypatch.setattr(checkpoint, '_load_step', vanishing)
  assert load(str(tmp_path)).step == 8
  assert 'damaged' not in capsys.readouterr().err
  numbers.append(9)
  with pytest.raises(checkpoint.Vanished, match='8 was removed while'):
    load(str(folder / '8'))
  with pytest.raises(UserError, match='it has those of 9'):
    load(str(folder / '8'))


def test_a_method_state_that_vanishes(tmp_path):
  toy.run(workdir=tmp_path, keep=1)
  loaded = load(str(tmp_path))
  replace_newest(tmp_path / 'checkpoints', 9)
  with pytest.raises(checkpoint.Vanished, match='6 was removed'):
    checkpoint.load_method_state(loaded, {'a': np.zeros(1)})
  loaded = load(str(tmp_path))  # this run has none: an error of another kind
  with pytest.raises(UserError, match='cannot be read') as caught:
    checkpoint.load_method_state(loaded, {'a': np.zeros(1)})
  assert not isinstance(caught.value, checkpoint.Vanished)


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_folder_that_cannot_be_written(tmp_path):
  tmp_path.chmod(0o500)
  assert 'can be written' in refusal(str(tmp_path / 'run'), toy.RUN)


def test_a_folder_below_a_file(tmp_path):
  (tmp_path / 'file').write_text('')
  assert 'can be written' in refusal(str(tmp_path / 'file' / 'run'), toy.RUN)


def test_a_missing_step_names_those_there_are(tmp_path):
  toy.run(workdir=tmp_path, checkpoint_every=2, keep=2)
  with pytest.raises(UserError, match='step 5 in .*: it has those of 4, 6'):
    load(str(tmp_path / 'checkpoints' / '5'))


def damage(folder):
  """Cuts what a checkpoint's arrays are stored in."""
  files = [p for p in (folder / 'ema').rglob('*') if p.is_file()]
  for path in files:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def test_damaged_checkpoints_are_named_in_one_line(tmp_path):
  """All of them; see tests/faults for one of several."""
  toy.run(workdir=tmp_path)
  damage(tmp_path / 'checkpoints' / '6')
  shutil.copytree(tmp_path / 'checkpoints' / '3', tmp_path / 'sound')
  damage(tmp_path / 'checkpoints' / '3')
  for use in (
    lambda: load(str(tmp_path)),
    lambda: toy.run(workdir=tmp_path),
  ):
    with pytest.raises(
      UserError, match=r'checkpoints/6 cannot be read'
    ) as message:
      use()
    assert '\n' not in str(message.value)
  shutil.rmtree(tmp_path / 'checkpoints' / '3')
  (tmp_path / 'sound').rename(tmp_path / 'checkpoints' / '3')
  assert load(str(tmp_path)).step == 3


def test_a_kill_during_a_save_leaves_the_one_before_it(tmp_path):
  """Half a checkpoint, under the name Orbax gives it until it is whole."""
  whole = toy.run(workdir=tmp_path / 'whole')
  folder = tmp_path / 'parts'
  toy.run(workdir=folder)
  last = folder / 'checkpoints' / '6'
  last.rename(last.with_name('6.orbax-checkpoint-tmp-123'))
  damage(last.with_name('6.orbax-checkpoint-tmp-123'))
  assert load(str(folder)).step == 3
  assert tiny.same(toy.run(workdir=folder), whole)
  assert load(str(folder)).step == 6


def test_loading_onto_a_given_layout(tmp_path):
  state = toy.run(workdir=tmp_path)
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  sharding = NamedSharding(mesh, PartitionSpec())
  shardings = jax.tree.map(lambda _: sharding, state.ema)
  loaded = load(str(tmp_path), shardings)
  assert tiny.same(loaded.params, state.ema)
  leaves = jax.tree.leaves(loaded.params)
  assert leaves
  assert all(leaf.sharding == sharding for leaf in leaves)


def test_averages_are_kept_in_float32(tmp_path):
  toy.run(workdir=tmp_path)
  leaves = jax.tree.leaves(load(str(tmp_path)).params)
  assert {leaf.dtype for leaf in leaves} == {np.dtype('float32')}


def test_a_checkpoint_holds_all_of_a_run(tmp_path):
  """config and tokenizer come back from the checkpoint alone."""
  toy.run(workdir=tmp_path)
  loaded = load(str(tmp_path / 'checkpoints' / '6'))
  assert loaded.run == toy.RUN and loaded.workdir == tmp_path
  stored = json.loads(
    (tmp_path / 'checkpoints' / '6' / 'iterator' / 'metadata').read_text()
  )
  assert stored == {'next_index': 6}


def test_starts_from_one_checkpoint_are_counted(tmp_path):
  """Progress begins the count anew; what refuses is a file that can go."""
  start = lambda tries=3: prepare_workdir(
    str(tmp_path), toy.RUN, resume=True, tries=tries
  )
  for _ in range(3):
    start()
  with pytest.raises(
    UserError, match='3 starts .* after step 0: .*starts.json'
  ):
    start()
  start(tries=0)  # by hand
  (tmp_path / 'checkpoints' / '5').mkdir(parents=True)
  (tmp_path / 'checkpoints' / '7.orbax-checkpoint-tmp').mkdir()
  for _ in range(3):
    start()
  with pytest.raises(UserError, match='after step 5'):
    start()
  (tmp_path / 'starts.json').unlink()
  start()
