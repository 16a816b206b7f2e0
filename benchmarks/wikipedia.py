"""Converts a MediaWiki dump (.xml.bz2) to `enwiki27`, text in 27 characters.

The characters are those of text8. Only articles are kept; markup is removed and
digits are spelt out. Each article is a line, so that `files:...?split=line`
splits by article. This is not text8, which has 100 million characters of
another dump, cleaned in another way.
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
# The order matters: inner markup is removed before the markup around it.
_MARKUP = (
  (re.compile(r'<!--.*?-->|<ref[^>]*/>|<ref.*?</ref>', re.DOTALL), ' '),
  (re.compile(r'<math.*?</math>|<gallery.*?</gallery>', re.DOTALL), ' '),
  (re.compile(r'<[^>]+>'), ' '),
  *_LINKS,
  *_LINKS,  # Again, for captions that contained links.
  (re.compile(r'\[?https?://\S+'), ' '),
)
_TEMPLATE = re.compile(r'\{\{[^{}]*\}\}|\{\|.*?\|\}', re.DOTALL)


def plain(markup: str) -> str:
  """Converts wiki markup to lower-case letters and single spaces."""
  text = html.unescape(markup)
  for _ in range(8):  # Templates may be nested.
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
  """Yields the articles of a dump, without redirects."""
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
  """Writes the articles of a dump to `out`, one per line, unless it exists.

  A file whose name ends in .gz is compressed. Equal dumps give equal bytes.
  """
  if not out.exists():
    out.parent.mkdir(parents=True, exist_ok=True)
    text = ''.join(f'{text}\n' for text in articles(dump) if text).encode()
    scratch = out.with_name(f'{out.name}.tmp')
    is_packed = out.suffix == '.gz'
    scratch.write_bytes(gzip.compress(text, mtime=0) if is_packed else text)
    scratch.replace(out)
  return out
