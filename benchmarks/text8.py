"""A MediaWiki dump (.xml.bz2) -> text in text8's 27 characters, for benchmarks.

Articles only, markup removed, digits spelt out, one paragraph group of about
1,000 characters a line so that a split by document has enough documents.
"""

import bz2
import html
import re
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

_DIGITS = (
  *('zero', 'one', 'two', 'three', 'four'),
  *('five', 'six', 'seven', 'eight', 'nine'),
)
_LINKS = (
  (re.compile(r'\[\[(?:file|image|category):[^\[\]]*\]\]', re.IGNORECASE), ' '),
  (re.compile(r'\[\[(?:[^|\[\]]*\|)?([^|\[\]]*)\]\]'), r'\1'),
)
# In this order: what stands inside is removed before what stands around it.
_MARKUP = (
  (re.compile(r'<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>', re.DOTALL), ' '),
  (re.compile(r'<math.*?</math>|<gallery.*?</gallery>', re.DOTALL), ' '),
  (re.compile(r'<[^>]+>'), ' '),
  *_LINKS,
  *_LINKS,  # of a caption that held links
  (re.compile(r'\[?https?://\S+'), ' '),
)
_TEMPLATE = re.compile(r'\{\{[^{}]*\}\}|\{\|.*?\|\}', re.DOTALL)


def plain(markup: str) -> str:
  """Wiki markup -> lower-case letters and single spaces."""
  text = html.unescape(markup)
  for _ in range(8):  # templates nest
    text, count = _TEMPLATE.subn(' ', text)
    if not count:
      break
  for pattern, instead in _MARKUP:
    text = pattern.sub(instead, text)
  text = re.sub(
    r'[0-9]', lambda digit: f' {_DIGITS[int(digit[0])]} ', text.lower()
  )
  return re.sub(r'[^a-z]+', ' ', text).strip()


def articles(dump: Path) -> Iterator[str]:
  """The articles of a dump that are no redirects."""
  with bz2.open(dump) as file:
    for _, node in ElementTree.iterparse(file):
      if not node.tag.endswith('}page'):
        continue
      space = node.tag.removesuffix('page')
      text = node.findtext(f'{space}revision/{space}text') or ''
      is_article = node.findtext(f'{space}ns') == '0'
      if is_article and not text.lower().startswith('#redirect'):
        yield plain(text)
      node.clear()


def prepare(dump: Path, out: Path) -> Path:
  """Writes the lines of a dump to `out`, unless they are there already."""
  if not out.exists():
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_suffix('.tmp')
    lines = (
      line for text in articles(dump) for line in textwrap.wrap(text, 1000)
    )
    scratch.write_text(''.join(line + '\n' for line in lines))
    scratch.replace(out)
  return out
