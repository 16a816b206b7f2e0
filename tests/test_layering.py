"""Imports go downward only, and each layer keeps to itself (DESIGN §1)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
  {'core', 'recipes'},
  {'schedules', 'data'},
  {'processes', 'nn', 'constraints'},
  {'model'},
  {'guidance'},
  {'samplers', 'objectives', 'interop'},
  {'methods'},
  {'training', 'evals', 'viz', 'unused', 'parsing'},
  {'evaluators'},
  {'overrides'},
  {'config_files'},
  {'config'},
  {'aot', 'api'},
  {'launchers'},
  {'__main__'},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MAX_LINES, MAX_LAUNCHER_LINES = 600, 80


def imported(source: str) -> set[str]:
  """Dotted names that a module's source imports, at any depth."""
  names = set()
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, 'relative import'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def violations(part: str, source: str) -> list[str]:
  """What a module of `part` imports and may not."""
  wrong = []
  for name in sorted(imported(source)):
    head, *rest = name.split('.')
    if head == 'flax' and part != 'nn':
      wrong.append(f'{part} imports flax')
    if head in {'launch', 'benchmarks', 'tests', 'configs'}:
      wrong.append(f'{part} imports {name}')
    if head != 'textdiffusion' or not rest or rest[0] == '__version__':
      continue
    other = rest[0]
    if other != part and LEVEL[other] >= LEVEL[part]:
      wrong.append(f'{part} imports {name}')
    if part == 'training' and other == 'methods' and rest[1] != 'method':
      wrong.append(f'training names a method: {name}')
  return wrong


def modules() -> list[Path]:
  return sorted((ROOT / 'textdiffusion').rglob('*.py'))


def part_of(path: Path) -> str:
  return path.relative_to(ROOT / 'textdiffusion').parts[0].removesuffix('.py')


@pytest.mark.parametrize(
  'path', modules(), ids=lambda path: str(path.relative_to(ROOT))
)
def test_imports_go_downward(path):
  if path.parent.name == 'textdiffusion' and path.name == '__init__.py':
    assert imported(path.read_text()) == {'textdiffusion.core.lazy.lazy_names'}
    return
  assert violations(part_of(path), path.read_text()) == []


def test_modules_are_short():
  long = [
    path for path in modules() if len(path.read_text().splitlines()) > MAX_LINES
  ]
  scripts = list((ROOT / 'launch').glob('*.py'))
  assert len(list(modules())) > 50 and len(scripts) > 3
  launchers = [
    path
    for path in scripts
    if len(path.read_text().splitlines()) > MAX_LAUNCHER_LINES
  ]
  assert long + launchers == []
  assert not list((ROOT / 'textdiffusion').rglob('utils.py'))


@pytest.mark.parametrize(
  'part, source',
  [
    ('core', 'from textdiffusion.data.pipeline import DataConfig'),
    ('processes', 'from textdiffusion.nn import transformer'),
    ('samplers', 'import flax.linen as nn'),
    (
      'objectives',
      'def f():\n  from textdiffusion.samplers.base import Sampler',
    ),
    ('training', 'from textdiffusion.methods.mdlm import MDLM'),
    ('evals', 'from textdiffusion.viz.trace import Trace'),
    ('methods', 'import launch.train'),
  ],
)
def test_it_bites(part, source):
  assert violations(part, source)
