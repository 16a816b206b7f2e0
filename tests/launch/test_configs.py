"""--config and --set of the launchers: lists of recipes, synonyms, nodes."""

import json

import pytest

from launch.parsing import replace_synonyms
from tests.fuzz.launchers import CONFIG, ROOT, TINY, launch
from textdiffusion.core.types import UserError

pytestmark = pytest.mark.usefixtures('quick_compile')


@pytest.mark.parametrize('name', ['train', 'demo', 'compile'])
def test_a_file_without_a_recipe_lists_them(name):
  for config in (f'{ROOT}/configs/mdlm.py', 'mdlm'):
    outcome = launch(name, [f'--config={config}'])
    assert outcome.code == 2 and not outcome.out and not outcome.crash
    error, head, *rows = outcome.err.splitlines()
    assert error.startswith(f'error: {config} has 6 recipes, python_docs, ')
    assert head.split() == ['recipe', 'network', 'batch']
    assert [row.split()[0] for row in rows][-1] == 'lm1b' and len(rows) == 6
    assert rows[-1].endswith("12 x 768  512 x 128  The paper's LM1B table")


def test_an_unknown_recipe_is_one_line():
  outcome = launch('train', ['--config=mdlm:lm1c', '--workdir=w'])
  (line,) = outcome.err.splitlines()
  assert outcome.code == 2 and 'did you mean lm1b' in line


def test_a_user_lists_recipes_of_their_own(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(
    'from textdiffusion.recipes import mdlm\n'
    "RECIPES = {\n  # Tab\there\n  'a': mdlm.RECIPES['lm1b'],\n"
    "  'b': mdlm.RECIPES['lm1b'],\n}\n"
  )
  rows = launch('train', [f'--config={path}']).err.splitlines()[2:]
  assert rows[0].endswith('Tab\\there') and rows[1].split()[0] == 'b'


@pytest.mark.parametrize(
  ('given', 'read'),
  [
    ('--config.train.steps=5', '--set=train.steps=5'),
    ('-config.train.steps=5', '--set=train.steps=5'),
    ('--config.train.steps 5', '--set=train.steps=5'),
    ('--config.model.dropout -1', '--set=model.dropout=-1'),
    ('--config.data.source=a=b', '--set=data.source=a=b'),
    ('--config.data.source=', '--set=data.source='),
    ('--config=a.py --config.x=1 --resume', '--config=a.py --set=x=1 --resume'),
    ('--workdir w --config.x=1', '--workdir w --set=x=1'),
    ('--configs.x=1', '--configs.x=1'),
    ('-- --config.x=1', '-- --config.x=1'),
    ('config.x=1', 'config.x=1'),
  ],
)
def test_synonyms(given, read):
  assert [*replace_synonyms(given.split())] == read.split()


@pytest.mark.parametrize('flags', ['--config.a', '--config.a --resume'])
def test_a_synonym_needs_a_value(flags):
  with pytest.raises(UserError, match='--config.a has no value: --config.a=V'):
    [*replace_synonyms(flags.split())]


def test_nodes_and_synonyms_in_a_run(tmp_path):
  flagfile = tmp_path / 'flags'
  flagfile.write_text('--config.train.seed=7\n')
  outcome = launch(
    'train',
    [
      *(CONFIG, *TINY, f'--workdir={tmp_path}/run'),
      '--set=method=MDLM(Cosine())',
      '--config.method.schedule=Squeezed(Polynomial(3), eps=1e-3)',
      '--set=method.schedule.eps=0.01',
      '--config.train.keep',
      '2',
      f'--flagfile={flagfile}',
    ],
  )
  assert outcome.code == 0, outcome
  saved = json.loads((tmp_path / 'run' / 'config.json').read_text())
  assert (saved['train']['seed'], saved['train']['keep']) == (7, 2)
  schedule = saved['method']['schedule']
  assert schedule['type'].endswith('.Squeezed') and schedule['eps'] == 0.01
  assert schedule['schedule']['power'] == 3.0


@pytest.mark.parametrize(
  ('flag', 'reason'),
  [
    ('--set=train=TrainConfig(5)', 'sampling does not read it'),
    ('--config.train.steps=5', 'sampling does not read it'),
    ('--set=evaluate=EvaluateConfig()', 'sampling does not read it'),
    ('--config.sampler', '--config.sampler has no value'),
  ],
)
def test_what_a_launcher_does_not_read(flag, reason, tmp_path):
  outcome = launch('sample', [f'--checkpoint={tmp_path}', flag])
  (line,) = outcome.err.splitlines()
  assert outcome.code == 2 and reason in line
