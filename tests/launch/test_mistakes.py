"""Mistakes on the command line: one line that names the mend."""

import pytest

from tests.fuzz.launchers import CONFIG, launch

pytestmark = pytest.mark.usefixtures('quick_compile')


@pytest.mark.parametrize(
  ('name', 'args', 'line'),
  [
    (
      'train',
      ['--optimizer.b1=5'],
      'no flag --optimizer.b1 (did you mean --set=train.optimizer.b1=5?)',
    ),
    (
      'train',
      ['--accumulate', '5'],
      'no flag --accumulate (did you mean --set=train.accumulate=VALUE?)',
    ),
    ('sample', ['--num=zwei'], '--num=zwei: expected a positive integer'),
    (
      'sample',
      ['--temperature=x y'],
      '--temperature=x y: expected a number',
    ),
    (
      'train',
      ['--config=configs/mdml.py:toy_grammar', '--workdir=w'],
      'config file configs/mdml.py does not exist (did you mean '
      'configs/mdlm.py or ',
    ),
    (
      'train',
      ['--config=mdml:toy_grammar', '--workdir=w'],
      'config file mdml does not exist (did you mean mdlm or ',
    ),
    (
      'train',
      [CONFIG, '--workdir=w', '--set=sampler=Remask'],
      'sampler=Remask: not a call (did you mean Remask()?)',
    ),
    (
      'train',
      [CONFIG, '--workdir=w', '--set=method=mdlm()'],
      'method=mdlm(): no mdlm fits here',
    ),
    (
      'train',
      [CONFIG, '--workdir=w', '--set=method=MDML'],
      'method=MDML is not a call (did you mean MDLM()?)',
    ),
  ],
)
def test_mistakes(name, args, line):
  outcome = launch(name, args)
  assert outcome.code == 2 and not outcome.crash, outcome
  assert outcome.err.startswith(f'error: {line}'), outcome.err
  assert len(outcome.err.splitlines()) == 1


def test_a_path_as_a_source(tmp_path):
  path = tmp_path / 'mine.txt'
  path.write_text('a\n')
  args = [CONFIG, f'--workdir={tmp_path}/run']
  for source in (path, f'{path}?split=line'):
    outcome = launch('train', [*args, f'--set=data.source={source}'])
    assert f'(did you mean files:{source}?)' in outcome.err, outcome
