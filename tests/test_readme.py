"""What README and notes/api.md show works, and what README links to exists."""

import doctest
import re
from pathlib import Path

import pytest

from textdiffusion.config import load

ROOT = Path(__file__).parent.parent
README = ROOT / 'README.md'


@pytest.mark.parametrize('page', ['README.md', 'notes/api.md'])
def test_the_example_runs(page):
  result = doctest.testfile(str(ROOT / page), module_relative=False)
  assert result.attempted >= 8 and result.failed == 0


def test_links_and_configs_exist():
  text = README.read_text()
  links = re.findall(r'\]\(([^)#]+)\)', text)
  configs = re.findall(r'--config=(\S+\.py:\w+)', text)
  assert len(links) > 8 and len(configs) > 3
  for path in links:
    assert '://' in path or (ROOT / path).exists(), path
  for path in configs:
    load(str(ROOT / path))
