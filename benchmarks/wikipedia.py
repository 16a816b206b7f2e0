"""A MediaWiki dump (.xml.bz2) -> `enwiki27`, text in text8's 27 characters.

Articles only, markup removed, digits spelt out. An article is a line, so that
a split by line (`files:...?split=line`) is a split by article. This is not
text8, which has 100 million characters of another dump and another cleaning.
"""

import bz2
import gzip
import html
import re
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
  """Writes the articles of a dump to `out`, one a line, if it is not there.

  A name that ends in .gz is compressed; equal dumps give equal bytes.
  """
  if not out.exists():
    out.parent.mkdir(parents=True, exist_ok=True)
    text = ''.join(f'{text}\n' for text in articles(dump) if text).encode()
    scratch = out.with_name(f'{out.name}.tmp')
    is_packed = out.suffix == '.gz'
    scratch.write_bytes(gzip.compress(text, mtime=0) if is_packed else text)
    scratch.replace(out)
  return out
