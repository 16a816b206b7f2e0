"""`~` in flags, which a shell leaves alone after an equals sign."""

import os

import pytest
from absl import flags

from launch import evaluate, paths, train  # noqa: F401 they define flags
from launch.paths import expand_flags, expand_settings
from textdiffusion import config as config_lib
from textdiffusion.api.lineage import (
  check_holdout,
  holdout_limit,
  within_holdout,
)
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import Bytes
from textdiffusion.training.initial import Origin
from textdiffusion.training.workdir import Run


@pytest.fixture
def home(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  return tmp_path


def test_every_path_of_a_setting(home):
  settings = [
    'data.source=files:~/a.txt?split=line',
    'data.source=pairs:~/src.txt,~/trg.txt',
    'data.tokenizer.path=~/spm.model',
    'data.source=files:/x/a~b.txt',
    'sampler=~',
    'nonsense',
  ]
  assert expand_settings(settings) == [
    f'data.source=files:{home}/a.txt?split=line',
    f'data.source=pairs:{home}/src.txt,{home}/trg.txt',
    f'data.tokenizer.path={home}/spm.model',
    'data.source=files:/x/a~b.txt',
    'sampler=~',
    'nonsense',
  ]


def test_every_path_of_a_flag(home):
  values = flags.FlagValues()
  for name in ('workdir', 'checkpoint', 'out', 'trace', 'source', 'config'):
    flags.DEFINE_string(name, None, '', flag_values=values)
  flags.DEFINE_string('prompt', '', '', flag_values=values)
  flags.DEFINE_multi_string('set', [], '', flag_values=values)
  values(['x', '--workdir=~/run', '--out=~/e.json', '--prompt=~/x'])
  expand_flags(values)
  assert values.workdir == f'{home}/run' and values.out == f'{home}/e.json'
  assert values.prompt == '~/x' and values.checkpoint is None


def test_flags_that_name_paths_are_known():
  """A new one must be listed, or its `~` makes a folder of that name."""
  words = ('FOLDER', 'folder', 'file', 'File', 'workdir', 'run', 'goes')
  named = {
    name
    for name in flags.FLAGS
    if flags.FLAGS[name].flag_type() == 'string'
    and str(flags.FLAGS.find_module_defining_flag(name)).startswith('launch')
    and any(word in flags.FLAGS[name].help.split() for word in words)
  }
  assert {'workdir', 'init_from', 'checkpoint', 'config'} <= set(paths._FLAGS)
  assert named <= {*paths._FLAGS, 'coordinator', 'profile'}


def test_a_home_that_is_not_known(monkeypatch):
  monkeypatch.setattr(os.path, 'expanduser', lambda path: path)
  with pytest.raises(UserError, match='home folder is not known'):
    expand_settings(['data.source=files:~/a.txt'])


def child_of(source, holdout, parent=None):
  data = config_lib.to_json(DataConfig(source=source, holdout=holdout))
  facts = {'fingerprint': 'x'}
  if parent:
    facts['init_from'] = {'config': parent.config, 'data': parent.data}
  return Run({'data': data}, {}, facts)


def test_a_run_inherits_what_was_trained_on(capsys):
  """Trained on one text, tuned on another: neither counts as held out."""
  tokenizer = Bytes(['mask'])
  parent = child_of('python_docs', 0.05)
  run = child_of('toy_grammar:40', 0.3, parent)
  asked = DataConfig(source='python_docs', holdout=0.5)
  assert holdout_limit(run, asked, tokenizer) == 0.05
  assert within_holdout(run, asked, tokenizer).holdout == 0.05
  assert 'trained on these texts' in capsys.readouterr().err
  few = DataConfig(source='python_docs', holdout=0.01)
  assert within_holdout(run, few, tokenizer) is few
  assert not capsys.readouterr().err
  origin = Origin(None, parent, None, None)
  check_holdout(origin, few, tokenizer)
  with pytest.raises(UserError, match='data.holdout=0.5: .* at most 0.05'):
    check_holdout(origin, asked, tokenizer)


def test_a_name_that_no_file_can_have_is_refused():
  values = flags.FlagValues()
  flags.DEFINE_string('config', None, '', flag_values=values)
  values(['program', '--config=configs/' + 256 * 'n'])
  with pytest.raises(UserError, match='--config=n+...: a name of 256 bytes'):
    expand_flags(values)
