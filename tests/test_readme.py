"""What the README shows works, and what it links to exists."""

import doctest
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / 'README.md'


def test_the_example_runs():
  result = doctest.testfile(str(README), module_relative=False)
  assert result.attempted >= 10 and result.failed == 0


def test_links_and_configs_exist():
  text = README.read_text()
  links = re.findall(r'\]\(([^)#]+)\)', text)
  paths = links + re.findall(r'--config=(\S+)', text)
  assert len(paths) > 8
  for path in paths:
    assert (ROOT / path).exists(), path
