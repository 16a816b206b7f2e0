"""Checkpoints of older versions restore for ever: each is used as a user would,
sampled from and trained on. One is added with every change of the format."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from textdiffusion.training.checkpoint import load
from textdiffusion.training.metrics import read

ROOT = Path(__file__).parents[2]
DATA = ROOT / 'tests' / 'data'
# Folder -> step, parameters, sum of their squares.
KEPT = {'checkpoint_0_1': (4, 12_480, 505.84531395888166)}


@pytest.mark.parametrize('name', KEPT)
def test_its_numbers(name):
  step, count, squares = KEPT[name]
  loaded = load(str(DATA / name))
  leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(loaded.params)]
  assert loaded.step == step
  assert sum(x.size for x in leaves) == count
  total = sum((x**2).sum() for x in leaves)
  np.testing.assert_allclose(total, squares, rtol=1e-12)


def run(*command):
  out = subprocess.run(
    [sys.executable, '-m', *command],
    cwd=ROOT,
    env={**os.environ, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )
  assert out.returncode == 0, out.stderr[-3000:]
  return out.stdout


@pytest.mark.parametrize('name', KEPT)
def test_it_is_sampled_from_and_trained_on(name, tmp_path):
  workdir = tmp_path / 'run'
  shutil.copytree(DATA / name, workdir)
  told = run('launch.sample', f'--checkpoint={workdir}', '--num=2', '--steps=2')
  assert told
  before = read(workdir / 'metrics.jsonl')
  # As it was begun: a default that changed since is taken from the run.
  run(
    'launch.train',
    '--config=configs/mdlm.py:toy_grammar',
    f'--workdir={workdir}',
    '--resume',
    *(
      f'--set={setting}'
      for setting in (
        'data.tokenizer.kind=bytes',
        'data.tokenizer.vocab_size=0',
        'data.length=128',
        'data.batch_size=4',
        'train.steps=8',
        'train.checkpoint_every=4',
        'train.log_every=1',
        'train.eval_every=0',
        'model.num_layers=1',
        'model.d_model=16',
        'model.num_heads=2',
        'evaluate.rows=4',
        'evaluate.draws=1',
        'evaluate.batch_size=4',
      )
    ),
  )
  assert load(str(workdir)).step == 8
  after = read(workdir / 'metrics.jsonl')
  loss = lambda rows: {r['step']: r['loss'] for r in rows if 'loss' in r}
  assert loss(after).keys() == loss(before).keys() == set(range(1, 9))
  for step, value in loss(before).items():
    assert loss(after)[step] == pytest.approx(value, rel=1e-4), step
