"""Workdirs: what may go on in them, and what is never lost."""

import json

import pytest

from tests.training import tiny
from textdiffusion.core.types import UserError
from textdiffusion.training.checkpoint import load
from textdiffusion.training.workdir import Run, prepare_workdir

CONFIG = {'train': {'steps': 5, 'log_every': 1}, 'data': {'source': 'a'}}
RUN = Run(CONFIG, {'kind': 'bytes'}, {'fingerprint': 'f1'})


def changed(**train):
  return RUN._replace(config={**CONFIG, 'train': {**CONFIG['train'], **train}})


def test_a_fresh_folder(tmp_path):
  prepare_workdir(str(tmp_path / 'run'), RUN)
  saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert saved == CONFIG


def test_the_same_run_needs_a_flag(tmp_path):
  prepare_workdir(str(tmp_path), RUN)
  with pytest.raises(UserError, match='--resume .* continues.*--overwrite'):
    prepare_workdir(str(tmp_path), RUN)
  prepare_workdir(str(tmp_path), RUN, resume=True)


def test_another_config_is_refused_by_name(tmp_path):
  prepare_workdir(str(tmp_path), RUN)
  for resume in (False, True):
    with pytest.raises(UserError, match=r'train.seed: None -> 9'):
      prepare_workdir(str(tmp_path), changed(seed=9), resume=resume)
  assert json.loads((tmp_path / 'config.json').read_text()) == CONFIG


def test_how_often_to_log_may_change(tmp_path):
  prepare_workdir(str(tmp_path), RUN)
  prepare_workdir(str(tmp_path), changed(log_every=7), resume=True)
  kept = json.loads((tmp_path / 'config.json').read_text())
  assert kept['train']['log_every'] == 7


def test_other_data_are_refused(tmp_path):
  prepare_workdir(str(tmp_path), RUN)
  other = RUN._replace(data={'fingerprint': 'f2'})
  with pytest.raises(UserError, match='fingerprint f1, now f2'):
    prepare_workdir(str(tmp_path), other, resume=True)


def test_overwriting_loses_nothing(tmp_path, capsys):
  folder = tmp_path / 'run'
  for _ in range(2):
    prepare_workdir(str(folder), RUN, overwrite=True)
    (folder / 'mine.txt').write_text('precious')
  prepare_workdir(str(folder), changed(steps=9), overwrite=True)
  assert (tmp_path / 'run.bak-1' / 'mine.txt').read_text() == 'precious'
  assert (tmp_path / 'run.bak-2' / 'mine.txt').exists()
  assert not (folder / 'mine.txt').exists()
  assert 'moved the old' in capsys.readouterr().out


def test_a_file_is_no_folder(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(UserError, match='is a file'):
    prepare_workdir(str(tmp_path / 'file'), RUN)


def test_load_takes_a_workdir_or_a_step(tmp_path):
  state = tiny.run(workdir=str(tmp_path), run=RUN)
  newest = load(str(tmp_path))
  assert newest.step == 6 and newest.run == RUN
  assert tiny.same(newest.params, state.ema)
  older = load(str(tmp_path / 'checkpoints' / '3'))
  assert older.step == 3 and not tiny.same(older.params, state.ema)
  # What a kill during a save leaves behind is no checkpoint.
  (tmp_path / 'checkpoints' / '9.orbax-checkpoint-tmp').mkdir()
  assert load(str(tmp_path)).step == 6


def test_nothing_to_load(tmp_path):
  with pytest.raises(UserError, match='no checkpoint at .*nowhere'):
    load(str(tmp_path / 'nowhere'))
  (tmp_path / 'checkpoints').mkdir()
  with pytest.raises(UserError, match='no complete checkpoint'):
    load(str(tmp_path))
