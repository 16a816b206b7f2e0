"""The links of notes/architecture.md lead to the definitions that they name.

`python -m tests.test_architecture` corrects the line numbers.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / 'notes' / 'architecture.md'
LINK = re.compile(r'\[`(\w+)`\]\(\.\./([\w/.]+)#L(\d+)\)')


def line_of(path: str, name: str) -> int:
  """The line on which a file defines a class, a function or a method."""
  text = (ROOT / path).read_text()
  found = re.search(rf'^ *(?:def|class) {name}\b|^{name} = ', text, re.M)
  assert found, f'{path} does not define {name}'
  return text.count('\n', 0, found.start()) + 1


def corrected(text: str) -> str:
  """The page with the line numbers of today."""
  link = lambda m: f'[`{m[1]}`](../{m[2]}#L{line_of(m[2], m[1])})'
  return LINK.sub(link, text)


def test_links_lead_to_what_they_name():
  text = PAGE.read_text()
  assert len(LINK.findall(text)) >= 30
  assert corrected(text) == text, 'run python -m tests.test_architecture'


def test_a_reader_opens_at_most_ten_files():
  parts = re.split(r'^## ', PAGE.read_text(), flags=re.M)
  walks = [part for part in parts if part.startswith('From ')]
  assert len(walks) == 2
  for walk in walks:
    files = {path for _, path, _ in LINK.findall(walk)}
    assert 5 <= len(files) <= 10


def test_files_exist():
  links = re.findall(r'\]\(\.\./([\w/.]+)', PAGE.read_text())
  assert links and all((ROOT / link).exists() for link in links)


if __name__ == '__main__':
  PAGE.write_text(corrected(PAGE.read_text()))
