"""The launchers as one program: `textdiffusion train --config=FILE ...`.

Their files are those of launch/, which a wheel has in this folder.
"""

import ast
import importlib
import sys
from pathlib import Path
from typing import NoReturn

_FOLDER = Path(__file__).parent
if not (_FOLDER / 'common.py').exists():  # a checkout
  _FOLDER = Path(__file__).parents[2] / 'launch'
  __path__.append(str(_FOLDER))

COMMANDS = ('train', 'sample', 'evaluate', 'demo', 'compile')


def main() -> None:
  """Runs the command that the first argument names."""
  name = sys.argv[1] if len(sys.argv) > 1 else ''
  if name not in COMMANDS:
    _explain(name)
  sys.argv[:2] = [f'textdiffusion {name}']
  module = importlib.import_module(f'{__name__}.{name}')
  sys.modules['__main__'].__doc__ = module.__doc__  # --help prints it.
  common = importlib.import_module(f'{__name__}.common')
  common.run(module.main)


def _explain(name: str) -> NoReturn:
  """Prints the commands; ends with 2 unless help was asked for."""
  is_help = name in ('', 'help', '-h', '--help')
  if not is_help:
    print(f'error: textdiffusion has no command {name!r}', file=sys.stderr)
  out = sys.stdout if is_help else sys.stderr
  print('usage: textdiffusion COMMAND --flag=value ...\n', file=out)
  for command in COMMANDS:
    source = (_FOLDER / f'{command}.py').read_text()
    summary = (ast.get_docstring(ast.parse(source)) or '').splitlines()[0]
    print(f'  {command:10}{summary}', file=out)
  print('\ntextdiffusion COMMAND --help lists its flags.', file=out)
  sys.exit(0 if is_help else 2)
