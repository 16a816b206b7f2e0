"""What `import textdiffusion` gives, and what it costs."""

import subprocess
import sys

import pytest

import textdiffusion as td


@pytest.mark.parametrize('package', [td, td.methods, td.data])
def test_every_public_name_is_there(package):
  assert len(package.__all__) > 3
  for name in package.__all__:
    assert getattr(package, name) is not None
    assert name in dir(package)


def test_an_unknown_name_is_an_attribute_error():
  with pytest.raises(AttributeError, match="textdiffusion has no 'lod'"):
    td.lod  # noqa: B018 the access itself


def test_all_methods_are_public():
  """A class with `build` in a file of `methods` is exported."""
  import ast
  from pathlib import Path

  folder = Path(td.methods.__file__).parent
  found = {
    node.name
    for path in folder.glob('*.py')
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.ClassDef)
    and not node.name.startswith('_')
    and path.stem != 'method'
    and any(
      isinstance(part, ast.FunctionDef) and part.name == 'build'
      for part in node.body
    )
  }
  assert len(found) > 15
  assert found <= set(td.methods.__all__), found - set(td.methods.__all__)


def test_the_import_is_light():
  """It loads neither JAX nor the rest of the package."""
  code = (
    'import sys, textdiffusion; '
    'print([n for n in ("jax", "flax", "grain", "orbax", "numpy") '
    'if n in sys.modules])'
  )
  out = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, check=True
  )
  assert out.stdout.strip() == '[]'


@pytest.mark.parametrize(
  'files, source',
  [
    (td.data.Files('a/*.txt'), 'files:a/*.txt'),
    (td.data.Files('a.txt', split='line'), 'files:a.txt?split=line'),
    (td.data.Files('a.jsonl', key='body'), 'files:a.jsonl?key=body'),
    (td.data.Files('a*', 'blank', 'k'), 'files:a*?split=blank&key=k'),
  ],
)
def test_files_are_a_source(files, source):
  assert str(files) == source
  assert td.data.DataConfig(source=files).source == source
  config = td.Config(td.methods.MDLM(), data=files)
  assert config.data == td.data.DataConfig(source=source)


def test_files_that_cannot_be():
  with pytest.raises(td.UserError, match="split='lines': must be file, line"):
    td.data.Files('a.txt', split='lines')
  with pytest.raises(td.UserError, match="key='': name the field"):
    td.data.Files('a.jsonl', key='')
