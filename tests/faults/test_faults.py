"""What happens to long runs, done to real processes: nothing is lost beyond the
last complete checkpoint, and nothing wrong is gone on from."""

import functools
import random
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest

from tests.faults.child import run
from tests.training import tiny
from tests.training.compiled import compiled  # noqa: F401 a fixture
from tests.warm import Server
from textdiffusion.core.types import UserError
from textdiffusion.training.checkpoint import Checkpointer, load
from textdiffusion.training.metrics import read

KILLS, SEED = 20, 0


@pytest.fixture(scope='module', autouse=True)
def as_children():
  """Equal to the bit is only what is compiled alike."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)


@pytest.fixture(scope='module')
def start(as_children):
  """(workdir, steps, limit) -> a process of `child`, its imports done."""
  server = Server('tests.faults.child')
  yield functools.partial(server.start, 'tests.faults.child')
  server.close()


@pytest.fixture(scope='module')
def straight(as_children):
  """Step -> averaged parameters of a run that nothing happens to."""
  states = {}

  def keep(state, step):
    states[step] = jax.device_get(state.ema)
    return {}

  run(steps=400, eval_every=1, log_every=100, evaluate=keep)
  return states


def newest(workdir):
  folder = workdir / 'checkpoints'
  return max(int(p.name) for p in folder.iterdir() if p.name.isdecimal())


def test_killed_at_random_moments(start, tmp_path, straight):
  """Each child goes on from where the last was killed, at some moment of a run
  that saves at every step; what is there is that of the straight run."""
  draw, step, seen = random.Random(SEED), 0, set()
  for _ in range(KILLS):
    process = start(tmp_path, 400)
    stop = draw.randint(1, 8)
    for line in process.stdout:
      if line.startswith('batch'):
        stop -= 1
      if not stop:
        break
    # A step and its save take some 30 ms.
    try:
      process.wait(draw.random() * 0.06)
    except subprocess.TimeoutExpired:
      process.send_signal(signal.SIGKILL)
    process.wait()
    if not (tmp_path / 'checkpoints').exists():
      continue
    loaded = load(str(tmp_path))
    assert loaded.step == newest(tmp_path) >= step
    assert tiny.same(loaded.params, straight[loaded.step])
    step = loaded.step
    # Left from a save that was killed in its middle.
    seen |= {p.name for p in (tmp_path / 'checkpoints').iterdir()} - {
      p.name for p in (tmp_path / 'checkpoints').iterdir() if p.name.isdecimal()
    }
  assert step > KILLS, 'each of them went on'
  assert seen, 'none of them was killed within a save'
  state = run(workdir=tmp_path, steps=step + 2)
  assert tiny.same(jax.device_get(state.ema), straight[step + 2])


def files(workdir, step):
  folder = workdir / 'checkpoints' / str(step)
  return [p for p in sorted(folder.rglob('*')) if p.is_file()]


def spoiled(path, how, draw):
  """One file cut off, gone, or with one byte changed."""
  if how == 'gone':
    path.unlink()
    return
  data = bytearray(path.read_bytes())
  if how == 'cut':
    data = data[: len(data) // 2]
  else:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
  path.write_bytes(bytes(data))


@pytest.fixture(scope='module')
def like(as_children):
  """A state of the shapes that are restored."""
  return run(steps=1)


@pytest.fixture(scope='module')
def sound(as_children, tmp_path_factory):
  """A workdir with checkpoints of steps 2 and 4."""
  folder = tmp_path_factory.mktemp('sound') / 'run'
  run(workdir=folder, steps=4, checkpoint_every=2)
  return folder


@pytest.mark.parametrize('how', ['cut', 'gone', 'changed'])
def test_a_damaged_checkpoint_is_never_taken_for_another(
  sound, straight, like, tmp_path, how, capsys
):
  """Every file of the newest, one after another: what is loaded is the state
  that was saved, of this step or of the one before, or an error."""
  draw, passed = random.Random(SEED), 0
  for number, path in enumerate(files(sound, 4)):
    workdir = tmp_path / str(number)
    shutil.copytree(sound, workdir)
    spoiled(workdir / path.relative_to(sound), how, draw)
    loaded = load(str(workdir))
    assert tiny.same(loaded.params, straight[loaded.step]), path
    told = capsys.readouterr().err
    if loaded.step == 2:
      passed += 1
      assert 'checkpoints/4 cannot be read' in told and 'step 2' in told
    saver = Checkpointer(workdir, 3)
    state, iterator = saver.restore(like)
    saver.close()
    assert iterator == {'next_index': int(state.step)}
    assert tiny.same(jax.device_get(state.ema), straight[int(state.step)])
    there = {p.name for p in (workdir / 'checkpoints').iterdir()}
    if int(state.step) == 2:
      assert 'damaged-4.0' in there and '4' not in there
      assert '4 cannot be read' in capsys.readouterr().err
    shutil.rmtree(workdir)
  assert passed, 'nothing was damaged'


def test_after_a_damaged_one_the_run_goes_on(sound, straight, tmp_path):
  shutil.copytree(sound, tmp_path / 'run')
  for path in files(tmp_path / 'run', 4):
    path.write_bytes(b'')
  state = run(workdir=tmp_path / 'run', steps=6, checkpoint_every=2)
  assert tiny.same(jax.device_get(state.ema), straight[6])
  names = {p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir()}
  assert {'2', '4', '6', 'damaged-4.0'} <= names


def test_none_left_to_read(sound, tmp_path):
  """The newest is named, and nothing is renamed."""
  shutil.copytree(sound, tmp_path / 'run')
  for step in (2, 4):
    for path in files(tmp_path / 'run', step):
      path.write_bytes(b'')
  for read_it in (
    lambda: load(str(tmp_path / 'run')),
    lambda: run(workdir=tmp_path / 'run', steps=6),
  ):
    with pytest.raises(UserError, match='checkpoints/4 cannot be read'):
      read_it()
  names = {p.name for p in (tmp_path / 'run' / 'checkpoints').iterdir()}
  assert {'2', '4'} <= names


def test_a_step_that_was_asked_for_is_that_or_none(sound, tmp_path):
  shutil.copytree(sound, tmp_path / 'run')
  for path in files(tmp_path / 'run', 4):
    path.write_bytes(b'')
  with pytest.raises(UserError, match='checkpoints/4 cannot be read'):
    load(str(tmp_path / 'run' / 'checkpoints' / '4'))
  assert load(str(tmp_path / 'run' / 'checkpoints' / '2')).step == 2


def test_a_full_disk(start, tmp_path, straight):
  """No file may grow from step 4 on: the run goes to its end, says each time
  what is kept, ends with an error, and goes on from there."""
  process = start(tmp_path, 8, 64)
  out, error = process.communicate(timeout=120)
  assert process.returncode != 0 and 'batch 8' in out and 'ended' not in out
  assert 'warning: the checkpoint of step' in error
  assert 'is the newest' in error and 'make room in' in error
  loaded = load(str(tmp_path))
  assert 1 <= loaded.step <= 4
  assert tiny.same(loaded.params, straight[loaded.step])
  state = run(workdir=tmp_path, steps=8)
  assert tiny.same(jax.device_get(state.ema), straight[8])
  losses = [row['loss'] for row in read(tmp_path / 'metrics.jsonl')]
  assert len(losses) == 8 and np.isfinite(losses).all()
