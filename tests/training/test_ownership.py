"""A workdir has one owner, and a run keeps to the folder that it claimed."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.training import tiny, toy
from textdiffusion.core.types import UserError
from textdiffusion.training import ownership
from textdiffusion.training.checkpoint import load
from textdiffusion.training.ownership import OWNER, claim
from textdiffusion.training.workdir import prepare_workdir

pytestmark = pytest.mark.usefixtures('quick_compile')
ROOT = Path(__file__).parents[2]


def refusal(call, *args, **settings):
  with pytest.raises(UserError) as caught:
    call(*args, **settings)
  assert '\n' not in str(caught.value)
  return str(caught.value)


@pytest.fixture
def impatient(monkeypatch):
  """A claim that is refused is refused at once."""
  patient = ownership.claim
  at_once = lambda path, patience=0.0: patient(path, 0.0)
  monkeypatch.setattr('textdiffusion.training.workdir.claim', at_once)
  monkeypatch.setattr('textdiffusion.training.loop.claim', at_once)


def test_the_second_is_refused_by_name(tmp_path):
  with claim(tmp_path / 'run'):
    message = refusal(claim, tmp_path / 'run', 0.0)
    assert f'process {os.getpid()} on {socket.gethostname()}' in message
    assert f'workdir={tmp_path}/run is in use' in message
  assert not (tmp_path / 'run' / OWNER).exists()
  claim(tmp_path / 'run', 0.0).close()


def test_a_kill_releases_it(tmp_path):
  """The owner.json that a killed process leaves is no lock."""
  child = subprocess.Popen(
    [
      sys.executable,
      '-c',
      'import pathlib, sys, time\n'
      'from textdiffusion.training.ownership import claim\n'
      'owner = claim(pathlib.Path(sys.argv[1]))\n'
      'print("claimed", flush=True)\n'
      'time.sleep(600)',
      str(tmp_path),
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )
  try:
    assert child.stdout.readline() == 'claimed\n'
    assert f'process {child.pid} on' in refusal(claim, tmp_path, 0.0)
  finally:
    child.send_signal(signal.SIGKILL)
    child.communicate()
  assert json.loads((tmp_path / OWNER).read_text())['pid'] == child.pid
  with claim(tmp_path, 5.0):
    assert json.loads((tmp_path / OWNER).read_text())['pid'] == os.getpid()


def test_a_claim_waits_for_an_end(tmp_path, capsys):
  first = claim(tmp_path)
  threading.Timer(0.3, first.close).start()
  claim(tmp_path, 30.0).close()
  assert 'waiting for process' in capsys.readouterr().err


def test_a_claim_outlives_a_move_of_the_folder(tmp_path):
  """Who waited for a folder that was moved aside gets the new one."""
  first = claim(tmp_path / 'run')
  (tmp_path / 'run').rename(tmp_path / 'moved')
  with claim(tmp_path / 'run', 0.0) as second:
    second.check()
    message = refusal(first.check)
    assert f'it is now {tmp_path}/moved' in message
    first.close()
    second.check()


@pytest.mark.parametrize('how', ['removed', 'replaced'])
def test_a_folder_that_is_gone(tmp_path, how):
  with claim(tmp_path / 'run') as owner:
    owner.check()
    (tmp_path / 'run').rename(tmp_path / 'moved')
    if how == 'replaced':
      (tmp_path / 'run').mkdir()
      (tmp_path / 'run' / OWNER).write_text('{"token": "other"}')
    assert f'{tmp_path}/run, was moved' in refusal(owner.check)


def test_a_file_system_without_locks(tmp_path, monkeypatch, capsys):
  """Nothing is refused there, and the first stops when the second comes."""

  def no_locks(descriptor, operation):
    raise OSError(errno.ENOLCK, 'No locks available')

  monkeypatch.setattr(ownership.fcntl, 'flock', no_locks)
  with claim(tmp_path) as first, claim(tmp_path) as second:
    assert 'has no locks (No locks available)' in capsys.readouterr().err
    second.check()
    assert 'replaced' in refusal(first.check)


@pytest.mark.parametrize('flags', [{'resume': True}, {}])
def test_a_live_run_is_not_joined(tmp_path, impatient, flags):
  owner = prepare_workdir(str(tmp_path / 'run'), toy.RUN)
  again = (prepare_workdir, str(tmp_path / 'run'), toy.RUN)
  assert 'is in use by process' in refusal(*again, **flags)
  assert [path.name for path in tmp_path.iterdir()] == ['run']
  owner.check()
  owner.close()
  prepare_workdir(str(tmp_path / 'run'), toy.RUN, resume=True).close()


def test_a_refused_start_leaves_nothing(tmp_path):
  prepare_workdir(str(tmp_path), toy.RUN).close()
  before = sorted(tmp_path.iterdir())
  for other in (toy.RUN, toy.RUN._replace(config={'a': 2})):
    refusal(prepare_workdir, str(tmp_path), other)
    assert sorted(tmp_path.iterdir()) == before


def test_overwriting_takes_the_new_folder(tmp_path):
  prepare_workdir(str(tmp_path / 'run'), toy.RUN).close()
  owner = prepare_workdir(str(tmp_path / 'run'), toy.RUN, overwrite=True)
  owner.check()
  assert not (tmp_path / 'run.bak-1' / OWNER).exists()
  assert (tmp_path / 'run.bak-1' / 'config.json').exists()


def test_training_claims_a_folder_that_nobody_prepared(tmp_path, impatient):
  with claim(tmp_path):
    assert 'is in use' in refusal(toy.run, workdir=tmp_path)
  assert not (tmp_path / 'checkpoints').exists()
  toy.run(workdir=tmp_path)
  assert not (tmp_path / OWNER).exists()


def test_a_run_whose_folder_was_replaced_stops(tmp_path, capsys):
  """By --overwrite: it writes nothing into the new folder, not even what is
  being saved, and its last state is in the old one."""
  new = []

  def change(index, batch):
    if index == 5:
      other = toy.RUN._replace(config={'a': 2})
      new.append(prepare_workdir(str(tmp_path / 'run'), other, overwrite=True))
    return batch

  message = refusal(
    toy.run, tiny.Batches(change), workdir=tmp_path / 'run', checkpoint_every=1
  )
  assert f'it is now {tmp_path}/run.bak-1' in message
  assert f'process {os.getpid()} on' in capsys.readouterr().err
  names = {path.name for path in (tmp_path / 'run').iterdir()}
  assert names == {'config.json', 'data.json', 'tokenizer.json', OWNER}
  new[0].check()
  assert load(str(tmp_path / 'run.bak-1')).step == 5
  state = toy.run(workdir=tmp_path / 'run.bak-1')
  assert tiny.same(state, toy.run())
