"""--help of the launchers: all flags of the project, and no others."""

import re
import subprocess
import sys

import pytest
from absl import flags

from tests.fuzz.launchers import NAMES, ROOT, launch, load_launchers


def listed(text: str) -> set[str]:
  return set(re.findall(r'^  --(?:\[no\])?(\w+):', text, re.M))


@pytest.mark.parametrize('name', NAMES)
def test_help_lists_the_flags_of_every_module(name):
  load_launchers()
  known = flags.FLAGS.flags_by_module_dict()
  own = {
    flag.name
    for module, defined in known.items()
    for flag in defined
    if module.startswith('launch.')
  }
  outcome = launch(name, ['--help'])
  assert not outcome.err and not outcome.crash
  assert listed(outcome.out) == own
  assert {'config', 'set', 'workdir', 'source', 'checkpoint'} <= own


def test_help_of_the_program():
  """It has the docstring of its command, and no flags of another command."""
  done = subprocess.run(
    [sys.executable, '-m', 'textdiffusion', 'sample', '--help'],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.stdout.startswith('Samples from a checkpoint.'), done
  found = listed(done.stdout)
  assert {'config', 'set', 'source', 'candidates', 'num'} <= found
  assert not found & {'resume', 'topology', 'log_dir', 'verbosity'}
