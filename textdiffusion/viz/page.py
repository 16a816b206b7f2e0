"""The shell of a self-contained page: style, script and data in one file."""

import html
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

# A second fence: were anything in a page to ask for a resource, the browser
# would refuse.
_POLICY = (
  "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
  "img-src data:; base-uri 'none'; form-action 'none'"
)
_SURROGATE = re.compile('[\ud800-\udfff]')
# What could end a script element or a line of script, reorder the source to
# the eye, or not be encoded.
_UNSAFE = re.compile('[<>&\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
# What a browser drops, rewrites or lets reorder the line around it.
_UNSEEN = re.compile('[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]')


def asset(name: str) -> str:
  """The text of a file in viz/assets."""
  path = resources.files('textdiffusion.viz') / 'assets' / name
  return path.read_text(encoding='utf-8')


def escape(text: str) -> str:
  """Text -> HTML that shows it; control characters become visible signs."""

  def sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
      return chr(0x2400 + code)
    return '␡' if code == 0x7F else f'⟨U+{code:04X}⟩'

  text = _SURROGATE.sub('\ufffd', str(text))
  return html.escape(_UNSEEN.sub(sign, text))


def embed(data: Any) -> str:
  """JSON that is harmless inside a script element, whatever the text.

  Raises ValueError for a float that is not finite, which JSON cannot say.
  """
  text = json.dumps(
    data, ensure_ascii=False, allow_nan=False, separators=(',', ':')
  )
  return _UNSAFE.sub(lambda found: f'\\u{ord(found[0]):04x}', text)


def page(
  title: str,
  body: str,
  data: Mapping[str, Any],
  scripts: Sequence[str] = (),
  styles: Sequence[str] = (),
) -> str:
  """A whole HTML document that loads nothing.

  Args:
    title: plain text; without one the page has no heading.
    body: HTML.
    data: id -> JSON, each in a script element of that id.
    scripts: names of assets, run in order after the body.
    styles: names of assets, after page.css.
  """
  blocks = ''.join(
    f'<script type="application/json" id="{name}">{embed(value)}</script>\n'
    for name, value in data.items()
  )
  code = ''.join(f'<script>\n{asset(name)}</script>\n' for name in scripts)
  style = ''.join(asset(name) for name in ('page.css', *styles))
  heading = f'<h1>{escape(title)}</h1>' if title else ''
  return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title or 'textdiffusion')}</title>
<style>
{style}</style>
<script>
{asset('theme.js')}</script>
</head>
<body>
<header>
{heading}
<button id="theme" class="quiet" type="button" aria-label="Dark theme"
 title="Light or dark"><svg viewBox="0 0 16 16" aria-hidden="true"><circle
 cx="8" cy="8" r="6.2" fill="none" stroke="currentColor" stroke-width="1.4"
/><path d="M8 1.8a6.2 6.2 0 0 1 0 12.4z" fill="currentColor"/></svg></button>
</header>
<main>
{body}
</main>
{blocks}{code}</body>
</html>
"""


def write(path: str | os.PathLike, text: str) -> None:
  """A file, whole or not at all; missing folders are made."""
  write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """As `write`."""
  target = Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  # Of this process only: two that write at once must not share it.
  scratch = target.with_name(f'.{target.name}.{os.getpid()}.tmp')
  try:
    scratch.write_bytes(content)
    os.replace(scratch, target)
  finally:
    scratch.unlink(missing_ok=True)
