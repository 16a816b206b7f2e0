"""Reads config files, which hold recipes by name or a single config.

`FILE.py:RECIPE` names a recipe of a file. The file defines one of

  RECIPES: a dict from names to configs, or to functions that return one. The
    comment above an entry, or the docstring of the function, describes it.
  get_config(): a function that returns the only config.

Modules beside the file can be imported while it is read, so a method of one's
own may lie there. The bundled files can be named from any folder, as
`configs/mdlm.py:lm1b` or `mdlm:lm1b`, and imported by `from
textdiffusion.recipes import mdlm, presets`.
"""

import ast
import contextlib
import inspect
import itertools
import os
import re
import runpy
import sys
import tokenize
import traceback
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from textdiffusion import recipes
from textdiffusion.core.types import UserError
from textdiffusion.parsing import nearest

_BUNDLED_NAME = re.compile(r'(?:configs/)?([a-z0-9_]+?)(?:\.py)?')
# Names of earlier versions, without recipes: configs/mdlm/python_docs_tiny.py.
_FORMER_NAME = re.compile(r'(?:.*/)?configs/([a-z0-9_]+)/([a-z0-9_]+)\.py')


class RecipeNeeded(UserError):
  """A file with several recipes was named without a recipe.

  Attributes:
    table: one line per recipe, to choose from.
  """

  def __init__(self, message: str, table: list[str]):
    super().__init__(message)
    self.table = table


class Location(NamedTuple):
  """An existing config file and a recipe.

  Attributes:
    file: path of the file.
    recipe: name of the recipe, '' if none is named.
  """

  file: str
  recipe: str


def bundled_files() -> dict[str, Path]:
  """Returns the files of bundled recipes by method."""
  return {
    path.stem: path
    for folder in recipes.__path__
    for path in sorted(Path(folder).glob('*.py'))
    if path.stem not in ('presets', '__init__')
  }


def locate(path: str) -> Location:
  """Splits FILE[:RECIPE] and finds the file.

  Raises:
    UserError: the file does not exist.
  """
  before, _, after = path.rpartition(':')
  for file, recipe in ((path, ''), (before, after)):
    if os.path.isfile(file):
      return Location(file, recipe)
    name = _BUNDLED_NAME.fullmatch(file)
    if name and name[1] in bundled_files():
      return Location(str(bundled_files()[name[1]]), recipe)
  if former := _former(path):
    return former
  file = before if after.isidentifier() else path
  form = 'configs/{}.py' if '/' in file or '.' in file else '{}'
  names = map(form.format, bundled_files())
  raise UserError(f'config file {file} does not exist{nearest(file, names)}')


def _former(path: str) -> Location | None:
  """Finds the recipe that replaces a config file of an earlier version."""
  found = _FORMER_NAME.fullmatch(path)
  file = bundled_files().get(found[1]) if found else None
  if found is None or file is None:
    return None
  # Former names ended in a size: lm1b_132m, toy_pairs_tiny.
  for name in (found[2], found[2].rpartition('_')[0]):
    if name in descriptions(str(file)):
      print(f'{path} is now configs/{found[1]}.py:{name}', file=sys.stderr)
      return Location(str(file), name)
  return None


def read(path: str, kind: type) -> Any:
  """Runs the config file FILE[:RECIPE].

  Args:
    path: a file and, unless it has only one config, a recipe.
    kind: class of a config.

  Returns:
    The config.

  Raises:
    RecipeNeeded: the file has several recipes, and the path names none.
    UserError: the file is not a config file, or raises an error.
  """
  file, name = locate(path)
  with _opened(file) as values:
    if not name and len(values) == 1:
      (name,) = values
    if name in values:
      return _built(values[name], kind, name, file)
    listed = ', '.join(values)
    if not name:
      configs = {n: _built(v, kind, n, file) for n, v in values.items()}
      texts = {
        n: inspect.getdoc(v) or '' for n, v in values.items() if callable(v)
      }
      texts |= {n: text for n, text in descriptions(file).items() if text}
      path = path.removesuffix(':')
      raise RecipeNeeded(
        f'{path} has {len(values)} recipes, {listed}: name one, for example '
        f'--config={path}:{next(iter(configs))}',
        _table(configs, texts),
      )
    if '' in values:
      raise UserError(
        f'--config={path}: {file} has get_config() and no RECIPES: leave out '
        f':{name}'
      )
    raise UserError(
      f'--config={path}: no recipe {name!r}{nearest(name, values)}; {file} has '
      f'{listed}'
    )


def read_all(file: str, kind: type) -> dict[str, Any]:
  """Returns all configs of a file by name; that of get_config() is ''."""
  with _opened(file) as values:
    return {name: _built(x, kind, name, file) for name, x in values.items()}


@contextlib.contextmanager
def _opened(file: str) -> Generator[Mapping[str, Any]]:
  """Runs a file; yields its RECIPES, or its get_config under ''."""
  if file.endswith('.json'):
    raise UserError(
      f'config file {file} is JSON, as a run saves it, and a config is a '
      'Python file with RECIPES or get_config(): name the .py file that the '
      'run was started with; --resume and its --workdir continue the run'
    )
  with _reported_errors(file), _importable(os.path.dirname(file)):
    names = runpy.run_path(file)
    found = [name for name in ('RECIPES', 'get_config') if name in names]
    if len(found) != 1:
      raise UserError(
        f'config file {file} defines {"both" if found else "no"} RECIPES '
        f'{"and" if found else "and no"} get_config(): define one of them'
      )
    if found == ['get_config']:
      yield {'': names['get_config']}
      return
    values = names['RECIPES']
    is_dict = isinstance(values, Mapping) and values
    if not is_dict or not all(isinstance(n, str) and n for n in values):
      raise UserError(
        f'config file {file}: RECIPES must be a dict of names and configs, and '
        'not empty'
      )
    yield values


@contextlib.contextmanager
def _importable(folder: str) -> Generator[None]:
  """Makes the modules of a folder importable, as those beside a script are."""
  path = os.path.abspath(folder)
  sys.path.insert(0, path)
  try:
    yield
  finally:
    sys.path.remove(path)


def descriptions(file: str) -> dict[str, str]:
  """Returns the comment above each entry of RECIPES, '' if there is none."""
  with tokenize.open(file) as opened:  # Uses the encoding the file declares.
    source = opened.read()
  lines, found = source.splitlines(), {}
  for key in _recipe_keys(source):
    above = itertools.takewhile(
      lambda line: line.strip().startswith('#'),
      reversed(lines[: key.lineno - 1]),
    )
    texts = [line.strip().lstrip('#').removeprefix(' ') for line in above]
    found[key.value] = '\n'.join(reversed(texts))
  return found


def _recipe_keys(source: str) -> Iterator[Any]:
  """Yields the syntax nodes of the keys of RECIPES."""
  for node in ast.parse(source).body:
    match node:
      case ast.Assign(targets=[ast.Name(id='RECIPES')], value=ast.Dict() as d):
        yield from (key for key in d.keys if isinstance(key, ast.Constant))
      case ast.AnnAssign(target=ast.Name(id='RECIPES'), value=ast.Dict() as d):
        yield from (key for key in d.keys if isinstance(key, ast.Constant))


def _built(value: Any, kind: type, name: str, file: str) -> Any:
  """Returns a config, or the config that a function returns."""
  if callable(value) and not isinstance(value, kind):
    value = value()
  if not isinstance(value, kind):
    source = f'recipe {name!r}' if name else 'get_config()'
    raise UserError(f'{source} of {file} returns no textdiffusion Config')
  return value


def _table(configs: dict[str, Any], texts: dict[str, str]) -> list[str]:
  """Returns the lines of a table of recipes with sizes and descriptions."""
  rows = [('recipe', 'network', 'batch', '')]
  for name, config in configs.items():
    model, data = config.model, config.data
    rows.append(
      (
        name,
        f'{model.num_layers} x {model.d_model}',
        f'{data.batch_size:,} x {data.length:,}',
        texts.get(name, '').partition('\n')[0],
      )
    )
  widths = [max(map(len, column)) for column in zip(*rows)]
  return [
    '  '.join(f'{x:<{n}}' for x, n in zip(row, widths)).rstrip() for row in rows
  ]


@contextlib.contextmanager
def _reported_errors(path: str) -> Generator[None]:
  """Turns any error of a config file into a UserError with its line."""
  try:
    yield
  except (UserError, KeyboardInterrupt):
    raise
  except SyntaxError as error:
    line = f', line {error.lineno}' if error.lineno else ''
    file = error.filename or path  # It may be a file that is imported.
    raise UserError(f'config file {file}{line}: {error.msg}') from None
  except BaseException as error:  # The file may even call sys.exit().
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == path]
    line = f', line {lines[-1]}' if lines else ''
    raise UserError(
      f'config file {path}{line}: {type(error).__name__}: {error}'
    ) from None
