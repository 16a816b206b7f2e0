"""Two and four processes of the launcher are as one, and end together."""

import functools
import os
import shutil
import signal
import socket
import time

import chex
import numpy as np
import pytest

from tests.training.compiled import compiled  # noqa: F401 a fixture
from tests.warm import Server
from textdiffusion.training.checkpoint import load
from textdiffusion.training.metrics import read

PATIENCE = 10  # seconds
SETTINGS = {
  'data.source': 'toy_grammar:2000',  # sentences, in place of 50,000
  'model.num_layers': 1,
  'model.d_model': 16,
  'model.num_heads': 2,
  'data.length': 36,
  'data.batch_size': 8,
  'train.steps': 30,
  'train.log_every': 1,
  'train.eval_every': 0,
  'train.checkpoint_every': 5,
  'train.optimizer.warmup_steps': 2,
  'evaluate.rows': 8,
  'evaluate.draws': 1,
  'evaluate.batch_size': 8,
}


def start_run(
  server, workdir, count, resume=False, environment=None, **settings
):
  """`count` processes of `launch.train` with four devices in all. They find
  each other by flags, or by the variables `environment(index, count)`."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  settings = {**SETTINGS, 'mesh.data': 1, 'mesh.fsdp': 4, **settings}
  flags = [
    f'--workdir={workdir}',
    '--config=configs/mdlm.py:toy_grammar',
    *(f'--set={name}={value}' for name, value in settings.items()),
    *(['--resume'] if resume else []),
    f'--patience={PATIENCE}',
  ]
  devices = f'--xla_force_host_platform_device_count={4 // count}'

  def many(index):
    if count == 1 or environment:
      return []
    address = f'--coordinator=127.0.0.1:{port}'
    return [address, f'--processes={count}', f'--process={index}']

  return [
    server.start(
      'launch.train',
      *flags,
      *many(i),
      XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} {devices}',
      **(environment(i, count) if environment else {}),
    )
    for i in range(count)
  ]


@pytest.fixture(scope='module')
def start():
  """`start_run` with its imports done."""
  modules = ('launch.common', 'textdiffusion.api.training')
  server = Server(*modules, JAX_PLATFORMS='cpu')
  yield functools.partial(start_run, server)
  server.close()


def finish(processes):
  for process in processes:
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-3000:]


def losses(workdir):
  rows = [row for row in read(workdir / 'metrics.jsonl') if 'loss' in row]
  assert [row['step'] for row in rows] == list(range(1, len(rows) + 1))
  return [row['loss'] for row in rows]


def saved(workdir):
  """Steps of the whole checkpoints."""
  names = [path.name for path in (workdir / 'checkpoints').iterdir()]
  return sorted(int(name) for name in names if name.isdecimal())


def until(process, start):
  for line in process.stdout:
    if line.startswith(start):
      return
  raise AssertionError(
    f'no line with {start!r}: {process.stderr.read()[-3000:]}'
  )


@pytest.fixture(scope='module')
def whole(start, tmp_path_factory):
  """Losses of each number of processes, undisturbed, and what they saved."""
  results = {}
  for count in (1, 2, 4):
    workdir = tmp_path_factory.mktemp('whole')
    finish(start(workdir, count))
    results[count] = losses(workdir)
    results[count, 'saved'] = load(str(workdir))
  return results


@pytest.fixture(scope='module')
def killed(start, tmp_path_factory):
  """The workdir of four processes, one of which was killed in a step from 12
  on, and how long the others lived."""
  workdir = tmp_path_factory.mktemp('killed')
  processes = start(workdir, 4)
  until(processes[0], 'step 12/')
  processes[3].send_signal(signal.SIGKILL)
  began = time.monotonic()
  codes = [process.wait(timeout=120) for process in processes]
  return workdir, codes, time.monotonic() - began


@pytest.mark.parametrize('count', [2, 4])
def test_many_processes_are_one(whole, count):
  assert len(whole[count]) == SETTINGS['train.steps']
  np.testing.assert_allclose(whole[count], whole[1], rtol=1e-5)
  alone, many = whole[1, 'saved'], whole[count, 'saved']
  assert many.step == alone.step == SETTINGS['train.steps']
  chex.assert_trees_all_close(many.params, alone.params, rtol=1e-4, atol=1e-5)


def test_the_death_of_one_ends_all_in_time(killed):
  _, codes, seconds = killed
  assert codes[3] == -signal.SIGKILL
  assert set(codes[:3]) <= {-signal.SIGABRT, os.EX_TEMPFAIL}, codes  # go on
  assert seconds < 6 * PATIENCE, seconds


@pytest.mark.parametrize('count', [4, 1])
def test_a_killed_run_goes_on(start, whole, killed, count, tmp_path):
  """With as many processes to the bit, with one on what four of them saved;
  with two it does in the next test."""
  workdir = tmp_path / 'run'
  shutil.copytree(killed[0], workdir)
  assert saved(workdir)[-1] in range(5, SETTINGS['train.steps'], 5)
  finish(start(workdir, count, resume=True))
  if count == 4:
    assert losses(workdir) == whole[4]
  np.testing.assert_allclose(losses(workdir), whole[4], rtol=1e-5)


def test_a_damaged_part_of_four_ends_two_starts(start, whole, killed, tmp_path):
  """Only one of two reads it, and can tell the other by its end alone; the
  third goes on from the checkpoint before, which is told and renamed."""
  workdir = tmp_path / 'run'
  shutil.copytree(killed[0], workdir)
  steps = saved(workdir)
  folder = workdir / 'checkpoints' / str(steps[-1]) / 'state'
  parts = [p for p in folder.rglob('ocdbt.process_3/d/*') if p.is_file()]
  assert parts
  for part in parts:  # some nobody reads, and of others not all
    data = bytearray(part.read_bytes())
    for place in range(0, len(data), 100):
      data[place] ^= 1
    part.write_bytes(bytes(data))
  for _ in range(2):
    processes = start(workdir, 2, resume=True)
    codes = [p.wait(timeout=120) for p in processes]
    assert all(codes), (codes, steps, [p.communicate() for p in processes])
  processes = start(workdir, 2, resume=True)
  errors = [p.communicate(timeout=300)[1] for p in processes]
  assert not any(p.returncode for p in processes), errors[0][-3000:]
  assert f'continuing from step {steps[-2]}' in errors[0]
  assert (workdir / 'checkpoints' / f'damaged-{steps[-1]}.0').exists()
  np.testing.assert_allclose(losses(workdir), whole[4], rtol=1e-5)


def test_a_host_that_hangs_ends_all_in_time(start, tmp_path):
  """One is stopped between two steps, and its heart with it."""
  processes = start(tmp_path, 2)
  until(processes[0], 'step 12/')
  processes[1].send_signal(signal.SIGSTOP)
  began = time.monotonic()
  try:
    out, error = processes[0].communicate(timeout=120)
  finally:
    processes[1].send_signal(signal.SIGKILL)
  assert processes[0].returncode, out
  assert time.monotonic() - began < 6 * PATIENCE


def by_open_mpi(index, count):
  """What mpirun puts into the environment of a process; JAX reads a port off
  the number of the job."""
  return {
    'OMPI_MCA_orte_hnp_uri': f'{4096 * (os.getpid() % 4000)}.0;tcp://127.0.0.1:1',
    'OMPI_COMM_WORLD_SIZE': str(count),
    'OMPI_COMM_WORLD_RANK': str(index),
    'OMPI_COMM_WORLD_LOCAL_RANK': str(index),
    'TEXTDIFFUSION_STOPPED_CODE': '75',
  }


def test_processes_of_a_cluster_stop_together_with_its_code(
  start, whole, tmp_path
):
  """A signal to one, as before a preemption; then the same command goes on."""
  processes = start(tmp_path, 2, environment=by_open_mpi)
  until(processes[0], 'step 2/')
  processes[1].send_signal(signal.SIGTERM)
  outs = [p.communicate(timeout=120) for p in processes]
  assert [p.returncode for p in processes] == [75, 75], outs
  step = saved(tmp_path)[-1]
  assert f'stopped after step {step} of' in outs[0][0]
  finish(start(tmp_path, 2, resume=True, environment=by_open_mpi))
  assert losses(tmp_path) == whole[2]
