"""`make demo` on a few steps: each part is printed and stands in the report."""

import json
import os
import re
from pathlib import Path

import pytest

from tests.launch.test_launch import launch, refused

ROOT = Path(__file__).parents[2]
CONFIG = '--config=configs/mdlm.py:e2e_demo'
SETS = [
  f'--set={item}'
  for item in (
    'model.num_layers=1',
    'model.d_model=16',
    'model.num_heads=2',
    'data.batch_size=8',
    'train.steps=4',
    'train.log_every=2',
    'train.eval_every=4',
    'train.checkpoint_every=2',
    'train.optimizer.warmup_steps=1',
    'evaluate.rows=8',
    'evaluate.draws=2',
    'evaluate.batch_size=8',
  )
]
HEADS = ('# Samples', '# Filling in', '# Editing', '# Answering')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('demo') / 'run'
  return folder, launch('demo', CONFIG, *SETS, f'--workdir={folder}').stdout


def test_make_demo_runs_this_config():
  makefile = (ROOT / 'Makefile').read_text()
  assert f'CONFIG := {CONFIG.removeprefix("--config=")}' in makefile
  assert '-m launch.demo --config=$(CONFIG) --workdir=$(DEMO)' in makefile


def test_every_part_is_printed(run):
  folder, out = run
  assert re.search(r'step 4/4  loss [\d.]+', out)
  places = [out.index(head) for head in HEADS]
  assert places == sorted(places)
  samples = out[places[0] : places[1]].strip().splitlines()[1:]
  assert len(samples) == 6 and all(samples)
  assert re.search(r'The <mask:6> restaurant.*\n  The \[.*\] restaurant', out)
  assert len(re.findall(r'% masked\n  old: .*\[.*\n  new: .*\[', out)) == 2
  answers = re.findall(r'^name=.*\n  model:  .*\n  corpus: [A-Z]', out, re.M)
  assert len(answers) == 4
  assert 'left out' not in out


def test_bits_stand_beside_those_of_bigrams(run):
  folder, out = run
  number = r'(\d\.\d{3})'
  for name in ('token unigram', 'token bigram', 'byte bigram'):
    assert re.search(f'^{name}: {number}$', out, re.M), name
  bound = r'(?m)^bits per byte \(bound\): \d\.\d{3} ± \d\.\d{3}$'
  assert re.search(bound, out)
  with_source = re.search(r'given the source \(bound\): (\d\.\d{3}) ±', out)
  assert with_source
  rows = (folder / 'metrics.jsonl').read_text().splitlines()
  last = [json.loads(r) for r in rows if 'eval/bits_per_byte' in r][-1]
  # Training evaluates rows that have their sources.
  assert with_source[1] == f'{last["eval/bits_per_byte"]:.3f}'
  assert f'<dd>{with_source[1]} ± ' in (folder / 'report.html').read_text()


def test_the_report_has_every_section(run):
  page = (run[0] / 'report.html').read_text()
  for name in (
    'curves',
    'watch',
    'samples',
    'infilling',
    'editing',
    'answering',
  ):
    assert f'<h2 id="{name}">' in page
  assert page.count('<del>') >= 2 and 'MDLM on e2e' in page


def test_a_second_start_trains_no_step_and_writes_the_same(run):
  folder, out = run
  (folder / 'report.html').unlink()
  again = launch(
    'demo', CONFIG, *SETS, f'--workdir={folder}', '--resume'
  ).stdout
  after = lambda text: text[text.index('# Held-out text') :]
  assert after(again) == after(out)
  assert 'loss' not in again
  assert (folder / 'report.html').exists()


def test_the_checkpoint_fills_in_and_answers_by_other_launchers(run, tmp_path):
  of = f'--checkpoint={run[0]}'
  gap = '--infill=The <mask:2> restaurant.'
  out = launch('sample', of, gap, '--num=2', '--format=jsonl').stdout
  rows = [json.loads(line) for line in out.splitlines()]
  assert len(rows) == 2
  for row in rows:
    assert re.fullmatch(r'The\S* ?.* restaurant\.', row['text'])
    # Its rows end as those of training: padding is part of what it models.
    assert len(row['ids']) == 40
  (tmp_path / 'sources.txt').write_text('name=Blue_Spice area=riverside\n')
  out = launch('sample', of, f'--source={tmp_path}/sources.txt').stdout
  assert len(out.splitlines()) == 1
  text = launch('sample', of, '--num=1', '--prompt=The Mill').stdout
  assert '\nThe Mill' in text


def test_a_run_is_not_overwritten(run):
  line = refused('demo', CONFIG, *SETS, f'--workdir={run[0]}')
  assert '--resume' in line and '--overwrite' in line


def test_another_corpus_has_gaps_of_its_own_text(tmp_path):
  text = tmp_path / 'a.txt'
  text.write_text('\n'.join(f'the {i} dogs see {i} cats' for i in range(200)))
  sets = [
    f'data.source=files:{text}?split=line',
    'data.rows=document',
    'data.source_dropout=0.0',
    'data.tokenizer.kind=bytes',
    'data.tokenizer.split=spaces',
    'data.tokenizer.min_count=1',
  ]
  args = [*SETS, *(f'--set={item}' for item in sets)]
  out = launch('demo', CONFIG, *args, f'--workdir={tmp_path}/run').stdout
  assert all(head in out for head in HEADS[:3])
  assert '# Answering' not in out and 'given the source' not in out
  assert len(re.findall(r'^the .*<mask:\d+>', out, re.M)) == 2


def test_a_demo_without_heldout_text_is_refused(tmp_path):
  text = tmp_path / 'a.txt'
  text.write_text('a b c d e f g h\n' * 50)
  sets = (f'--set=data.source=files:{text}', '--set=data.rows=packed')
  more = (
    '--set=data.source_dropout=0.0',
    '--set=data.model_padding=False',
    '--set=data.holdout=0.0',
  )
  line = refused(
    'demo', CONFIG, *SETS, *sets, *more, f'--workdir={tmp_path}/run'
  )
  assert 'data.holdout=0: the demo compares on held-out text' in line
  assert not os.path.exists(tmp_path / 'run')
