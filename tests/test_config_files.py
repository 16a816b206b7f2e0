"""Config files: recipes, a user's own file, what is wrong with one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from textdiffusion.config import load
from textdiffusion.config_files import RecipeNeeded, descriptions
from textdiffusion.core.types import UserError

ROOT = Path(__file__).parent.parent
HEAD = """
from dataclasses import replace
from textdiffusion.config import Config
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.training.state import TrainConfig
SHORT = Config(MDLM(), train=TrainConfig(steps=5))
"""
TWO = f"""{HEAD}
RECIPES = {{
  # Five steps
  # Cost: none.
  'short': SHORT,
  'long': lambda: replace(SHORT, train=TrainConfig(steps=9)),
}}
"""


@pytest.fixture
def write(tmp_path):
  """Writes the user's own config file; returns its path."""

  def write(text, name='mine.py'):
    path = tmp_path / name
    path.write_text(text)
    return str(path)

  return write


def test_a_recipe_is_chosen_by_name(write):
  path = write(TWO)
  assert load(f'{path}:short').train.steps == 5
  assert load(f'{path}:long').train.steps == 9
  assert load(f'{path}:long', ['train.steps=3']).train.steps == 3


def test_one_recipe_needs_no_name(write):
  path = write(f"{HEAD}\nRECIPES = {{'only': SHORT}}\n")
  assert load(path) == load(f'{path}:only') == load(f'{path}:')
  with pytest.raises(UserError, match=r"no recipe 'onyl' \(did you mean only"):
    load(f'{path}:onyl')


def test_get_config_is_one_config(write):
  path = write(f'{HEAD}\ndef get_config():\n  return SHORT\n')
  assert load(path).train.steps == 5
  with pytest.raises(UserError, match=r'get_config\(\) and no RECIPES.*:tiny'):
    load(f'{path}:tiny')


def test_several_recipes_are_listed(write):
  path = write(TWO)
  for name in (path, f'{path}:'):
    with pytest.raises(RecipeNeeded, match='has 2 recipes, short, long') as e:
      load(name)
    assert f'--config={path}:short' in str(e.value)
    assert '\n' not in str(e.value)
  head, short, long = e.value.table
  assert head.split() == ['recipe', 'network', 'batch']
  assert ' '.join(short.split()) == 'short 6 x 256 16 x 128 Five steps'
  assert ' '.join(long.split()) == 'long 6 x 256 16 x 128'


def test_comments_and_docstrings_describe(write):
  path = write(
    f'{HEAD}\ndef long():\n  """Many steps.\n\n  Slow.\n  """\n  return SHORT\n'
    "RECIPES: dict = {\n# One\n\n  # Few\n  'short': SHORT,\n  'long': long}\n"
  )
  assert descriptions(path)['short'] == 'Few'
  with pytest.raises(RecipeNeeded) as caught:
    load(path)
  assert caught.value.table[2].endswith('Many steps.')


def test_an_unknown_recipe_names_the_nearest():
  with pytest.raises(UserError, match='did you mean toy_grammar.*lm1b') as e:
    load('configs/mdlm.py:toy_gramar')
  assert not isinstance(e.value, RecipeNeeded)


def test_bundled_recipes_are_found_from_anywhere(tmp_path, monkeypatch):
  want = load(f'{ROOT}/configs/mdlm.py:lm1b')
  monkeypatch.chdir(tmp_path)
  for path in ('mdlm:lm1b', 'mdlm.py:lm1b', 'configs/mdlm.py:lm1b'):
    assert load(path) == want
  for path in ('mdlm', 'configs/mdlm.py'):
    with pytest.raises(RecipeNeeded, match=f'--config={path}:python_docs'):
      load(path)
  for path in ('presets', 'configs/presets.py', 'mdlm/lm1b', 'x/mdlm.py'):
    with pytest.raises(UserError, match='does not exist'):
      load(path)
  # The user's own file comes first.
  Path('mdlm.py').write_text(f"{HEAD}\nRECIPES = {{'lm1b': SHORT}}\n")
  assert load('mdlm.py:lm1b').train.steps == 5


def test_a_file_builds_on_bundled_recipes(write):
  path = write(
    'from dataclasses import replace\n'
    'from textdiffusion.recipes import mdlm, presets\n'
    "BASE = mdlm.RECIPES['lm1b']\n"
    'get_config = lambda: replace(BASE, model=presets.TINY)\n'
  )
  config = load(path)
  assert config.model.d_model == 256 and config.data.source.startswith('tfds')
  assert config.train == load('mdlm:lm1b').train


def test_a_copy_of_a_bundled_file_works(tmp_path):
  shutil.copy(ROOT / 'configs' / 'd3pm.py', tmp_path / 'copied.py')
  assert load(f'{tmp_path}/copied.py:text8') == load('d3pm:text8')


@pytest.mark.parametrize(
  ('recipes', 'reason'),
  [
    ('5', 'RECIPES must be a dict'),
    ('{}', 'RECIPES must be a dict'),
    ('{1: SHORT}', 'RECIPES must be a dict of names'),
    ("{'': SHORT}", 'RECIPES must be a dict of names'),
    ("{'a': 5}", "recipe 'a' of .* returns no textdiffusion Config"),
    (
      "{'a': SHORT, 'b': 5}",
      "recipe 'b' of .* returns no textdiffusion Config",
    ),
    ("{'a': lambda: 1 / 0}", 'line 8: ZeroDivisionError'),
    ('{}\nget_config = lambda: SHORT', 'both RECIPES and get_config'),
  ],
)
def test_bad_recipes(write, recipes, reason):
  with pytest.raises(UserError, match=reason) as caught:
    load(write(f'{HEAD}\nRECIPES = {recipes}\n'))
  assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'former, recipe',
  [
    ('mdlm/python_docs_tiny', 'mdlm.py:python_docs'),
    ('mdlm/lm1b_132m', 'mdlm.py:lm1b'),
    ('autoregressive/c4_8b', 'autoregressive.py:c4_8b'),
    ('edit_flows/toy_grammar_noise_tiny', 'edit_flows.py:toy_grammar_noise'),
  ],
)
def test_former_names_are_still_read(capsys, former, recipe):
  assert load(f'configs/{former}.py') == load(f'configs/{recipe}')
  note = f'configs/{former}.py is now configs/{recipe}\n'
  assert capsys.readouterr().err == note
  # Also as part of a checkout, where its users had the old files.
  assert load(f'/some/checkout/configs/{former}.py') == load(
    f'configs/{recipe}'
  )


def test_bad_files(tmp_path):
  with pytest.raises(UserError, match=r'does not exist.*configs/mdlm.py'):
    load('configs/mdlm/python_tiny.py')
  with pytest.raises(UserError, match=r'file gs://x/c.py does not exist'):
    load('gs://x/c.py:a')
  path = tmp_path / 'c.py'
  path.write_text('x = 1\n')
  with pytest.raises(UserError, match=r'defines no RECIPES and no get_config'):
    load(str(path))
  path.write_text('def get_config():\n  return 5\n')
  with pytest.raises(UserError, match='returns no textdiffusion Config'):
    load(str(path))
  path.write_text('def get_config(:\n')
  with pytest.raises(UserError, match='c.py, line 1'):
    load(str(path))


@pytest.mark.parametrize(
  ('text', 'reason'),
  [
    (b'import nosuchmodule', 'line 1: ModuleNotFoundError'),
    (b'from textdiffusion.recipes import x', 'line 1: ImportError'),
    (b'def get_config(): return undefined', 'line 1: NameError'),
    (b'def get_config(size): return size', 'TypeError: get_config.. missing'),
    (b'\x89PNG\0\0', 'c.py'),
    (b'x = "\xe9"\n', 'line 1: .*decode byte 0xe9'),
    (b'', 'defines no RECIPES and no get_config'),
    (b'\n\n1/0', 'line 3: ZeroDivisionError: division by zero'),
    (b'import sys\nsys.exit(3)', 'line 2: SystemExit: 3'),
    (b"raise OSError('two\\nlines')", r'two\\nlines'),
    (b'def get_config(): get_config()', 'RecursionError'),
  ],
)
def test_a_config_that_fails_ends_in_one_line(tmp_path, text, reason):
  path = tmp_path / 'c.py'
  path.write_bytes(text)
  with pytest.raises(UserError, match=reason) as caught:
    load(str(path))
  assert '\n' not in str(caught.value) and str(path) in str(caught.value)


def test_what_a_run_saves_is_no_config_file(tmp_path):
  """The message names the mend: the .py file, or --resume."""
  path = tmp_path / 'config.json'
  path.write_text('{}')
  with pytest.raises(UserError, match=r'is JSON.*\.py file.*--resume'):
    load(str(path))


def test_a_wheel_has_the_recipes_and_the_launchers(tmp_path):
  """As `pip install git+...` builds it, and as `load` finds them there."""
  pytest.importorskip('setuptools')
  source, library = tmp_path / 'source', tmp_path / 'lib'
  for name in ('textdiffusion', 'configs', 'launch'):
    shutil.copytree(ROOT / name, source / name)
  shutil.copy(ROOT / 'setup.py', source)
  # pyproject.toml would need the setuptools of an isolated build.
  (source / 'setup.cfg').write_text(
    '[options]\npackages = find:\n'
    '[options.packages.find]\ninclude = textdiffusion*\n'
  )
  command = [sys.executable, 'setup.py', 'build', f'--build-lib={library}']
  subprocess.run(command, cwd=source, check=True, capture_output=True)
  files = {path.name for path in (library / 'textdiffusion/recipes').iterdir()}
  sources = {path.name for path in (ROOT / 'configs').glob('*.py')}
  assert files == {'__init__.py', *sources}
  assert not (library / 'configs').exists()
  program = [sys.executable, '-m', 'textdiffusion', 'train']
  done = subprocess.run(
    [*program, '--config=mdlm:toy_grammar', '--set=train.stepz=1'],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(library)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and '--workdir=FOLDER' in done.stderr, done
  done = subprocess.run(
    [
      *(sys.executable, '-c'),
      'import textdiffusion.config as c\n'
      "print(c.__file__, c.load('mdlm:lm1b').train.steps)",
    ],
    cwd=tmp_path,
    env={**os.environ, 'PYTHONPATH': str(library)},
    capture_output=True,
    text=True,
  )
  want = [f'{library}/textdiffusion/config.py', '1000000']
  assert done.stdout.split() == want, done.stderr
