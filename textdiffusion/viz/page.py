"""Self-contained HTML pages: style, scripts and data in one file."""

import contextlib
import html
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

from textdiffusion.core.types import UserError

# A second line of defence: the browser refuses to load any resource.
_POLICY = (
  "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
  "img-src data:; base-uri 'none'; form-action 'none'"
)
_SURROGATE = re.compile('[\ud800-\udfff]')
# Characters that could end a script element or a line of script, change the
# displayed order of the source, or not be encoded.
_UNSAFE = re.compile('[<>&\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
# Characters that a browser drops or rewrites, or that reorder a line.
_UNSEEN = re.compile('[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]')


def asset(name: str) -> str:
  """Returns the text of a file in viz/assets."""
  path = resources.files('textdiffusion.viz') / 'assets' / name
  return path.read_text(encoding='utf-8')


def escape(text: str) -> str:
  """Escapes text for HTML; control characters become visible signs."""

  def sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
      return chr(0x2400 + code)
    return '␡' if code == 0x7F else f'⟨U+{code:04X}⟩'

  text = _SURROGATE.sub('\ufffd', str(text))
  return html.escape(_UNSEEN.sub(sign, text))


def embed(data: object) -> str:
  """Returns JSON that is safe inside a script element, whatever the text.

  Raises:
    ValueError: a float is not finite, which JSON cannot represent.
  """
  text = json.dumps(
    data, ensure_ascii=False, allow_nan=False, separators=(',', ':')
  )
  return _UNSAFE.sub(lambda found: f'\\u{ord(found[0]):04x}', text)


def page(
  title: str,
  body: str,
  data: Mapping[str, object],
  scripts: Sequence[str] = (),
  styles: Sequence[str] = (),
) -> str:
  """Returns an HTML document that loads no other resource.

  Args:
    title: plain text of the heading; '' gives no heading.
    body: HTML of the body.
    data: maps ids to JSON values, each put into a script element of that id.
    scripts: names of script assets, run in order after the body.
    styles: names of style assets, added after page.css.
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
  """Writes a file atomically, and creates missing folders."""
  write_bytes(path, text.encode())


def is_page(text: str) -> bool:
  """Returns whether the text of a file is an HTML page."""
  return text.lstrip().lower().startswith('<!doctype html')


def check_target(path: str, flag: str, is_own: Callable[[str], bool]) -> None:
  """Checks before any work that `write` will be able to write a file.

  Args:
    path: the file. It and the folders above it may be missing.
    flag: the flag that names the file, such as '--out'.
    is_own: returns whether an existing text is of the kind that will be
      written; only such a file is replaced.

  Raises:
    UserError: the file cannot be written, or is of another kind.
  """
  place, target = f'{flag}={path}', Path(path).absolute()
  try:
    if target.exists() and not target.is_file() and not target.is_dir():
      return  # The path is a device or a pipe.
    text = target.read_text(errors='replace') if target.is_file() else ''
    is_folder = target.is_dir()
    if not is_folder:
      _try_to_write(target)
  except (OSError, ValueError) as error:
    reason = getattr(error, 'strerror', None) or str(error)
    raise UserError(
      f'{place} cannot be written ({reason}): name a file in a folder that can'
    ) from None
  if is_folder:
    raise UserError(f'{place} is a folder: name a file')
  if text and not is_own(text):
    raise UserError(
      f'{place} exists and holds something else, which would be lost: name '
      'another file'
    )


def _try_to_write(target: Path) -> None:
  """Writes an empty file in the nearest folder that exists, and removes it."""
  parents = list(target.parents)
  there = next(i for i, folder in enumerate(parents) if folder.exists())
  folder = parents[there]
  # Missing names are looked up too, as a name that is too long raises here.
  names = [parents[there - 1].name] if there else []
  for name in (*names, _scratch(target).name):
    with contextlib.suppress(FileNotFoundError):
      os.lstat(folder / name)
  with tempfile.TemporaryFile(dir=folder):
    pass


def _scratch(target: Path) -> Path:
  """Returns a temporary path next to `target`, different for each process."""
  return target.with_name(f'.{target.name}.{os.getpid()}.tmp')


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
  """Writes bytes atomically, as `write` does text."""
  target = Path(path)
  if target.exists() and not target.is_file():  # Such as /dev/stdout.
    target.write_bytes(content)
    return
  target = target.resolve()  # Links are followed, not replaced.
  target.parent.mkdir(parents=True, exist_ok=True)
  scratch = _scratch(target)
  try:
    scratch.write_bytes(content)
    os.replace(scratch, target)
  finally:
    scratch.unlink(missing_ok=True)
