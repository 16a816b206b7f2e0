"""The launchers, end to end on a small run, and what they say of mistakes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fuzz import launchers

ROOT = Path(__file__).parents[2]
CONFIG = '--config=configs/mdlm.py:toy_grammar'
SMALL = [
  'data.source=toy_grammar:400',
  'data.batch_size=8',
  'data.length=64',
  'data.tokenizer.kind=characters',
  'model.num_layers=2',
  'model.d_model=16',
  'train.steps=6',
  'train.log_every=2',
  'train.eval_every=6',
  'train.checkpoint_every=3',
  'evaluate.rows=8',
  'evaluate.draws=2',
  'evaluate.batch_size=8',
]
SETS = [f'--set={item}' for item in SMALL]


class Done(NamedTuple):
  """What a launcher printed."""

  stdout: str
  stderr: str


def launch(name, *args, code=0):
  """Runs a launcher in this process, which spares the imports."""
  outcome = launchers.launch(name, list(map(str, args)))
  assert outcome.code == code and not outcome.crash, outcome
  return Done(outcome.out, outcome.err)


def launch_process(name, *args, code=0):
  """Runs a launcher in a process of its own, as a user does."""
  done = subprocess.run(
    [sys.executable, '-m', f'launch.{name}', *map(str, args)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=os.environ,
  )
  assert done.returncode == code, done.stderr[-3000:]
  return done


def only_error(error):
  """The one line of a mistake; no traceback."""
  lines = [line for line in error.splitlines() if line.startswith('error: ')]
  assert len(lines) == 1 and 'Traceback' not in error, error
  return lines[0]


def refused(name, *args):
  """The one line of a mistake: exit code 2, no traceback."""
  return only_error(launch(name, *args, code=2).stderr)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  out = launch_process('train', CONFIG, *SETS, f'--workdir={folder}').stdout
  assert re.search(r'step 6/6  loss [\d.]+', out)
  return folder


def test_a_run_leaves_what_is_needed_to_repeat_it(workdir):
  config = json.loads((workdir / 'config.json').read_text())
  assert config['train']['steps'] == 6
  assert json.loads((workdir / 'data.json').read_text())['fingerprint']
  assert (workdir / 'tokenizer.json').exists()
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert any('eval/bits_per_byte' in row for row in rows)


def test_sample_and_trace(workdir, tmp_path):
  page = tmp_path / 'trace.html'
  args = (f'--checkpoint={workdir}', '--num=2', '--steps=4', '--length=12')
  out = launch(
    'sample', *args, '--prompt=the cat', '--format=jsonl', f'--trace={page}'
  ).stdout
  rows = [json.loads(line) for line in out.splitlines()]
  assert len(rows) == 2 and all(len(row['ids']) == 12 for row in rows)
  assert all(row['text'].startswith('the cat') for row in rows)
  assert page.read_text().startswith('<!doctype html')
  plain = (*args, '--prompt=the cat', '--format=jsonl')
  again = launch_process('sample', *plain).stdout
  assert again == out, 'equal seeds, equal samples, trace or not'
  other = launch('sample', *plain, '--seed=1').stdout
  assert other != out


def test_infill(workdir):
  step = workdir / 'checkpoints' / '3'
  out = launch(
    'sample', f'--checkpoint={step}', '--num=1', '--infill=the <mask:3> sees'
  ).stdout
  assert re.search(r'^the .{0,3} sees$', out, re.MULTILINE)


def test_evaluate(workdir):
  step = workdir / 'checkpoints' / '6'
  out, err = launch('evaluate', f'--checkpoint={step}')
  assert err == f'wrote {workdir}/evaluation-6.json\n'
  report = json.loads(out)
  assert not list((workdir / 'checkpoints').rglob('evaluation*'))
  saved = json.loads((workdir / 'evaluation-6.json').read_text())
  assert report == saved and report['step'] == 6
  assert {'bits_per_byte', 'bits_per_token', 'perplexity'} <= set(report)
  assert report['nats_per_token_se'] > 0 and set(report['terms']) == {
    'diffusion',
    'prior',
    'reconstruction',
  }
  assert 'toy_grammar' in report['protocol']
  assert report['documents'] == 8
  baselines = report['baselines']
  assert baselines['unigram']['bits_per_byte'] > 0.9
  assert baselines['unigram']['bits_per_byte'] < report['bits_per_byte']
  assert baselines['bigram']['nats_per_token'] < report['nats_per_token']
  # After 6 steps it is far above what the grammar itself says of these rows.
  gap = report['nats_per_token'] - report['true_nats_per_token']
  assert gap == report['gap_nats_per_token'] > 0.5


def test_resume_and_overwrite(workdir, tmp_path):
  said = refused('train', CONFIG, *SETS, f'--workdir={workdir}')
  assert '--resume' in said and '--overwrite' in said
  changed = refused(
    'train', CONFIG, *SETS, '--set=train.seed=5', f'--workdir={workdir}'
  )
  assert 'train.seed: 0 -> 5' in changed
  launch('train', CONFIG, *SETS, f'--workdir={workdir}', '--resume')
  copy = tmp_path / 'copy'
  for _ in range(2):
    args = ('--set=train.steps=1', f'--workdir={copy}', '--overwrite')
    launch('train', CONFIG, *SETS, *args)
  assert (tmp_path / 'copy.bak-1' / 'config.json').exists()


def test_mistakes_in_training(tmp_path):
  to = f'--workdir={tmp_path}/run'
  bad = tmp_path / 'bad.txt'
  bad.write_bytes(b'\xff\xfe')
  (tmp_path / 'empty.txt').write_text('')
  cases = [
    (('--set=train.stepz=1',), 'mean steps'),
    (('--set=train.steps=one',), 'expected int'),
    (('--set=data.source=files:/none/*.txt',), 'matches no file'),
    ((f'--set=data.source=files:{tmp_path}/empty.txt',), 'too small'),
    ((f'--set=data.source=files:{bad}',), 'not UTF-8'),
    (('--set=data.length=20',), 'document .* tokens'),
    (('--set=data.tokenizer.specials=bos,eos,pad',), 'no mask token'),
    (('--set=mesh.data=3',), 'does not cover'),
    (('--set=train.accumulate=3',), 'not divisible'),
    (('--nosuchflag',), 'nosuchflag'),
    (('--coordinator=localhost:1',), 'belong together'),
  ]
  for args, told in cases:
    assert re.search(told, refused('train', CONFIG, *SETS, *args, to)), args
  assert 'does not exist' in refused('train', '--config=configs/none.py', to)
  assert '--workdir' in refused('train', CONFIG)
  args = ('train', CONFIG, *SETS, to, '--coordinator=auto')
  error = only_error(launch_process(*args, code=2).stderr)
  assert 'other processes were not found' in error
  assert not (tmp_path / 'run').exists(), 'a refused run leaves nothing'


def test_mistakes_in_sampling(workdir):
  of = f'--checkpoint={workdir}'
  cases = [
    (('--infill=the <mask:0> cat',), 'the span <mask:0> needs'),
    (('--infill=the <mask:999> cat',), 'longer than the row of 64'),
    (('--infill=the cat',), 'no span to fill in'),
    ((f'--prompt={"word " * 20}',), 'the prompt has 100 tokens'),
    (('--steps=0',), '--steps=0: Ancestral(steps=0): must be'),
    (('--prompt=a', '--infill=<mask>'), 'exclude each other'),
    (('--set=model.d_model=32',), 'holds another model'),
  ]
  for args, told in cases:
    assert told in refused('sample', of, *args), args
  assert 'no checkpoint at' in refused('sample', '--checkpoint=/nowhere')
  assert '--checkpoint is missing' in refused('sample')


def test_a_checkpoint_refuses_data_of_another_tokenizer(workdir):
  other = '--set=data.tokenizer.kind=bytes'
  assert 'ask for another' in refused('evaluate', f'--workdir={workdir}', other)


def test_an_autoregressive_run_continues_prompts_and_refuses_gaps(tmp_path):
  config = '--config=configs/autoregressive.py:toy_grammar'
  launch('train', config, *SETS, f'--workdir={tmp_path}')
  of = f'--checkpoint={tmp_path}'
  page = tmp_path / 'trace.html'
  out = launch(
    'sample', of, '--num=1', '--prompt=the ', '--length=9', f'--trace={page}'
  ).stdout
  assert '\nthe ' in out and page.exists()
  assert 'cannot fill in' in refused('sample', of, '--infill=a <mask:2> b')
  report = json.loads(launch('evaluate', of).stdout)
  assert report['draws'] == 1 and 'exact likelihood' in report['protocol']
