"""Bundled text, read from the running interpreter: nothing is downloaded.

`python_docs` is the language reference and the docstrings of the standard
library; `python_source` is the library's own code, tests left out. Each is
built once as a TFDS dataset of ArrayRecord files, without TensorFlow.
"""

import ast
import contextlib
import functools
import hashlib
import importlib
import inspect
import io
import logging
import os
import platform
import shutil
import sysconfig
import tempfile
import tokenize
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

from textdiffusion.core.types import UserError

BUNDLED = ('python_docs', 'python_source')
VERSION = '1.0.1'  # raise it with any change of what the corpora hold
_SKIPPED = {
  'site-packages',
  'dist-packages',
  'test',
  'tests',
  'idle_test',
  'lib2to3',
  'turtledemo',
  '__pycache__',
}
_SHORTEST = 40  # characters; below, a docstring says next to nothing


def cache_dir() -> Path:
  """Where built data lie: TEXTDIFFUSION_DATA, or the user's cache."""
  given = os.environ.get('TEXTDIFFUSION_DATA')
  try:
    path = Path(given or '~/.cache/textdiffusion').expanduser()
  except RuntimeError:
    raise UserError(
      'built data have no place, as the home folder is not known: set '
      'TEXTDIFFUSION_DATA to a folder that can be written'
    ) from None
  with writing_cache(path):
    return path


@contextlib.contextmanager
def writing_cache(folder: Path) -> Generator[None]:
  """Makes a folder for built data, and reports what cannot be written there.

  Raises:
    UserError: an OSError within the context.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    yield
  except OSError as error:
    name = Path(error.filename or folder)
    is_cache = name.is_relative_to(folder) or folder.is_relative_to(name)
    if not is_cache:  # a text that is being read
      raise UserError(
        f'{name} cannot be read ({error.strerror}): mend or leave it out'
      ) from None
    raise UserError(
      f'built data cannot be kept in {folder} ({error.strerror or error}): set '
      'TEXTDIFFUSION_DATA to a folder that can be written'
    ) from None


def library_files() -> list[Path]:
  """The standard library's modules in a fixed order, tests left out."""
  root = Path(sysconfig.get_paths()['stdlib'])
  return sorted(
    path
    for path in root.rglob('*.py')
    if not _SKIPPED & set(path.relative_to(root).parts)
  )


def python_docs() -> Iterator[tuple[str, str]]:
  """(name, text): reference topics, then docstrings, none twice."""
  topics = importlib.import_module('pydoc_data.topics').topics
  seen = set()
  for name in sorted(topics):
    text = topics[name].strip()
    if text not in seen:  # `if` and `else` are one topic
      seen.add(text)
      yield f'topics/{name}', text
  for name, source in _sources():
    for node in ast.walk(ast.parse(source)):
      if not isinstance(
        node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
      ):
        continue
      text = inspect.cleandoc(ast.get_docstring(node) or '').strip()
      if len(text) >= _SHORTEST and text not in seen:
        seen.add(text)
        yield f'{name}/{getattr(node, "name", "")}', text


def python_source() -> Iterator[tuple[str, str]]:
  """(name, text): every module of the standard library."""
  yield from _sources()


def _sources() -> Iterator[tuple[str, str]]:
  root = Path(sysconfig.get_paths()['stdlib'])
  for path in library_files():
    with contextlib.suppress(SyntaxError, UnicodeDecodeError):
      with tokenize.open(path) as file:
        source = file.read()
      ast.parse(source)
      if source.strip():
        yield str(path.relative_to(root)), source


def bundled_fingerprint(name: str) -> str:
  """Changes with what a bundled corpus holds."""
  return f'{name}/{VERSION}/{platform.python_version()}'


@functools.cache
def library_digest() -> str:
  """Changes with the modules of the standard library.

  Two builds of the same version, a distribution's and another, differ in what
  they include.
  """
  root = Path(sysconfig.get_paths()['stdlib'])
  sizes = [
    (str(path.relative_to(root)), path.stat().st_size)
    for path in library_files()
  ]
  return hashlib.sha256(repr(sizes).encode()).hexdigest()[:8]


def bundled(name: str) -> Sequence[dict[str, Any]]:
  """The dataset's documents as {'name', 'text'} of bytes, built if needed."""
  interpreter = f'python-{platform.python_version()}-{library_digest()}'
  data_dir = cache_dir() / 'tfds' / interpreter
  builder = _builder(name, data_dir)
  if not builder.is_prepared():
    # Built aside and renamed, so that two processes cannot meet in it.
    with (
      writing_cache(data_dir),
      tempfile.TemporaryDirectory(dir=data_dir) as scratch,
    ):
      aside = _builder(name, Path(scratch))
      with contextlib.redirect_stdout(io.StringIO()):
        aside.download_and_prepare()
      built, final = Path(aside.data_dir), Path(builder.data_dir)
      final.parent.mkdir(parents=True, exist_ok=True)
      try:
        os.replace(built, final)
      except OSError:
        if not final.exists():
          raise
        shutil.rmtree(built)  # another process was first
    builder = _builder(name, data_dir)
  return builder.as_data_source(split='train')


def quiet_tfds() -> Any:
  """TFDS without progress bars and without a look at the network.

  Imported here, as it takes seconds and most uses of this package need none.
  """
  import tensorflow_datasets as tfds

  logging.getLogger('absl').setLevel(logging.ERROR)
  tfds.disable_progress_bar()
  tfds.core.utils.gcs_utils._is_gcs_disabled = True
  # Ten tries wait for three minutes in all where there is no network.
  name = 'tensorflow_datasets.core.download.downloader'
  vars(importlib.import_module(name))['MAX_RETRIES'] = 5
  logging.getLogger('urllib3').setLevel(logging.ERROR)
  return tfds


def _builder(name: str, data_dir: Path) -> Any:
  """The TFDS builder of a bundled corpus in `data_dir`."""
  tfds = quiet_tfds()
  documents = {'python_docs': python_docs, 'python_source': python_source}
  if name not in documents:
    raise UserError(f'no bundled corpus {name!r}: there are {BUNDLED}')

  class Corpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version(VERSION)

    def _info(self) -> Any:
      features = {'name': tfds.features.Text(), 'text': tfds.features.Text()}
      return tfds.core.DatasetInfo(
        builder=self,
        features=tfds.features.FeaturesDict(features),
        description=f'{name} of Python {platform.python_version()}',
      )

    def _split_generators(self, dl_manager: Any) -> Any:
      del dl_manager  # nothing to download
      return {'train': self._generate_examples()}

    def _generate_examples(self) -> Any:
      for index, (title, text) in enumerate(documents[name]()):
        text = text.encode('utf-8', 'replace').decode()
        yield index, {'name': title, 'text': text}

  Corpus.name = name
  return Corpus(data_dir=str(data_dir), file_format='array_record')
