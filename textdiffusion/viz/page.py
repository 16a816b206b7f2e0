"""The shell of a self-contained page: style, script and data in one file."""

import html
import json
import os
from importlib import resources
from pathlib import Path
from typing import Any


def asset(name: str) -> str:
  """The text of a file in viz/assets."""
  return (resources.files('textdiffusion.viz') / 'assets' / name).read_text()


def embed(data: Any) -> str:
  """JSON that is harmless inside a script element, whatever the text."""
  text = json.dumps(data, ensure_ascii=False, separators=(',', ':'))
  return (
    text.replace('<', '\\u003c')
    .replace('>', '\\u003e')
    .replace('&', '\\u0026')
    .replace('\u2028', '\\u2028')
    .replace('\u2029', '\\u2029')
  )


def page(title: str, body: str, data: dict[str, Any], scripts: list[str]) -> str:
  """A whole HTML document that loads nothing.

  Args:
    title: plain text.
    body: HTML.
    data: id -> JSON, each in a script element of that id.
    scripts: names of assets, run in order after the body.
  """
  blocks = ''.join(
    f'<script type="application/json" id="{name}">{embed(value)}</script>'
    for name, value in data.items()
  )
  code = ''.join(f'<script>{asset(name)}</script>' for name in scripts)
  return (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="data:,">'
    f'<title>{html.escape(title)}</title><style>{asset("page.css")}</style>'
    f'</head><body><main><header><h1>{html.escape(title)}</h1>'
    '<button id="theme" type="button" aria-label="Switch between light and '
    'dark">◐</button></header>'
    f'{body}</main>{blocks}<script>{asset("theme.js")}</script>{code}'
    '</body></html>'
  )


def write(path: str | os.PathLike, text: str) -> None:
  """Whole or not at all."""
  target = Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  scratch = target.with_name(target.name + '.tmp')
  scratch.write_text(text, encoding='utf-8')
  os.replace(scratch, target)
