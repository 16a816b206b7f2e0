"""launch.sample --source, end to end: an encoder and a fitted schedule."""

import json

import numpy as np
import pytest

from tests.launch.test_launch import launch, refused

SETS = [
  f'--set={item}'
  for item in (
    'data.source=toy_pairs:400',
    'data.batch_size=8',
    'model.num_layers=1',
    'model.d_model=16',
    'model.num_heads=2',
    'model.encoder_layers=1',
    'method.num_steps=20',
    'method.bins=5',
    'method.refit_every=2',
    'method.refit_from=2',
    'train.steps=6',
    'train.checkpoint_every=3',
    'train.eval_every=6',
    'evaluate.rows=8',
    'evaluate.draws=2',
    'evaluate.batch_size=8',
    'sampler.steps=5',
  )
]
SOURCES = 'a cat likes most girls\nsome old zebras see a dog\n'


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  config = '--config=configs/seqdiffuseq.py:toy_pairs'
  launch('train', config, *SETS, f'--workdir={folder}')
  (folder / 'sources.txt').write_text(SOURCES)
  return folder


def answer(workdir, *args):
  source = f'--source={workdir}/sources.txt'
  return launch('sample', f'--checkpoint={workdir}', source, *args)


def test_ranked_candidates_one_line_a_source(workdir):
  done = answer(workdir, '--candidates=4', '--keep=2', '--format=jsonl')
  assert (
    "1 word(s) of the sources are unknown and read as <unk>: 'zebras'"
    in done.stderr
  )
  rows = [json.loads(line) for line in done.stdout.splitlines()]
  assert [row['source'] for row in rows] == SOURCES.splitlines()
  for row in rows:
    gains = [one['gain'] for one in row['answers']]
    assert len(gains) == 2 and gains == sorted(gains, reverse=True)
  lines = answer(workdir, '--candidates=4', '--keep=2').stdout.splitlines()
  told = [[one['text'] for one in row['answers']] for row in rows]
  # Equal seeds, equal answers.
  assert [line.split('\t') for line in lines] == told


def test_the_checkpoint_knows_its_schedule(workdir):
  """Evaluation is of the fitted one."""
  launch('evaluate', f'--workdir={workdir}')
  result = json.loads((workdir / 'evaluation-6.json').read_text())
  assert np.isfinite(result['nats_per_token'])
  assert 'toy_pairs:400, held-out sentences' in result['protocol']


def test_mistakes(workdir, tmp_path):
  ask = lambda *args: refused('sample', f'--checkpoint={workdir}', *args)
  assert '--source=absent.txt: no such file' in ask('--source=absent.txt')
  path = tmp_path / 'sources.txt'
  path.write_text('a\n\nb\n')  # others are in tests/evals/test_answers.py
  assert 'line 2 is empty' in ask(f'--source={path}')
  path.write_bytes(b'\xff\n')
  assert 'is not UTF-8' in ask(f'--source={path}')
