"""Two hosts agree: on a workdir, on a mesh, on when to stop."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.training import toy
from textdiffusion.training.checkpoint import load
from textdiffusion.training.metrics import read

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def hosts(tmp_path_factory):
  """(workdir, what each host told, what each printed)."""
  workdir = tmp_path_factory.mktemp('hosts') / 'run'
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    port = probe.getsockname()[1]
  started = [
    subprocess.Popen(
      [sys.executable, '-m', 'tests.multi_device.host']
      + [str(workdir), str(port), str(index)],
      cwd=ROOT,
      env={**os.environ, 'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for index in range(2)
  ]
  outs = []
  try:
    for process in started:
      out, error = process.communicate(timeout=200)
      assert process.returncode == 0, error[-3000:]
      outs.append(out)
  finally:
    for process in started:
      process.kill()
      process.wait()
  told = [json.loads(re.search('RESULT (.*)', out)[1]) for out in outs]
  return workdir, told, outs


def test_a_workdir_has_one_verdict(hosts):
  _, (first, second), _ = hosts
  assert first['fresh'] == second['fresh'] == ''
  assert '(in Python resume=True) continues' in first['again']
  assert 'refused by the first host' in second['again']
  assert first['resumed'] == second['resumed'] == ''


def test_a_row_split_over_hosts_is_refused(hosts):
  for told in hosts[1]:
    assert 'mesh.tensor=2 splits a row over hosts' in told['tensor']


def test_a_signal_to_one_stops_both_at_the_same_step(hosts):
  workdir, (first, second), outs = hosts
  assert first['step'] == second['step'] < 10
  assert load(str(workdir)).step == first['step']
  assert 'stopped after step' in outs[0] and 'stopped' not in outs[1]


def test_two_hosts_train_as_one(hosts):
  workdir, (told, _), _ = hosts
  alone = []
  steps = told['step']
  toy.run(steps=50, workdir=workdir.with_name('alone'), batches=None)
  alone = read(workdir.with_name('alone') / 'metrics.jsonl')[:steps]
  both = read(workdir / 'metrics.jsonl')
  assert [row['step'] for row in both] == list(range(1, steps + 1))
  np.testing.assert_allclose(
    [row['loss'] for row in both], [row['loss'] for row in alone], rtol=1e-5
  )
  assert jax.process_count() == 1
