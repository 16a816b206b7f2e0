"""A headless browser that notes what goes wrong in a page."""

import contextlib
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
QUIET = (
  '--no-sandbox',
  '--disable-gpu',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--no-first-run',
)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
  """A running browser; skips the test where there is none."""
  path = next(filter(None, map(shutil.which, NAMES)), None)
  if path is None:
    pytest.skip(f'no browser on the path: none of {", ".join(NAMES)}')
  api = pytest.importorskip('playwright.sync_api')
  with api.sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=path, args=[*QUIET])
    try:
      yield browser
    finally:
      browser.close()


@contextlib.contextmanager
def opened(
  browser: Any, path: pathlib.Path, text: str, **options: Any
) -> Iterator[Any]:
  """A page shown; at the end it must have been silent and asked for nothing.

  options: of the context: viewport, color_scheme, reduced_motion.
  """
  path.write_text(text, encoding='utf-8')
  context = browser.new_context(**options)
  page = context.new_page()
  page.set_default_timeout(5000)
  troubles: list[str] = []
  asked: list[str] = []
  page.on('console', lambda message: troubles.append(message.text))
  page.on('pageerror', lambda error: troubles.append(str(error)))
  page.on('dialog', lambda dialog: troubles.append(dialog.message))
  page.on('request', lambda request: asked.append(request.url))
  page.goto(path.as_uri())
  try:
    yield page
    assert troubles == []
    assert {url for url in asked if not url.startswith('data:')} == {
      path.as_uri()
    }
  finally:
    context.close()
