"""Bundled corpora, read from the running Python; nothing is downloaded.

`python_docs` holds the language reference and the docstrings of the standard
library. `python_source` holds the source of the standard library without its
tests. Each is built once as a TFDS dataset of ArrayRecord files, without
TensorFlow.
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
VERSION = '1.0.1'  # Raise it with any change of the contents of the corpora.
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
_SHORTEST = 40  # Characters; shorter docstrings hold little text to learn.


def cache_dir() -> Path:
  """Returns the folder of built data, and creates it.

  It is TEXTDIFFUSION_DATA if that is set, and else in the user's cache.

  Raises:
    UserError: the folder cannot be created.
  """
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
  """Creates a folder for built data, and turns OSErrors into UserErrors.

  Raises:
    UserError: an OSError was raised within the `with` block.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
    yield
  except OSError as error:
    name = Path(error.filename or folder)
    is_cache = name.is_relative_to(folder) or folder.is_relative_to(name)
    if not is_cache:  # The error is about a text file that is being read.
      raise UserError(
        f'{name} cannot be read ({error.strerror}): mend or leave it out'
      ) from None
    raise UserError(
      f'built data cannot be kept in {folder} ({error.strerror or error}): set '
      'TEXTDIFFUSION_DATA to a folder that can be written'
    ) from None


def library_files() -> list[Path]:
  """Returns the modules of the standard library, sorted, without tests."""
  root = Path(sysconfig.get_paths()['stdlib'])
  return sorted(
    path
    for path in root.rglob('*.py')
    if not _SKIPPED & set(path.relative_to(root).parts)
  )


def python_docs() -> Iterator[tuple[str, str]]:
  """Yields (name, text) of reference topics, then docstrings, no text twice."""
  topics = importlib.import_module('pydoc_data.topics').topics
  texts = set()
  for name in sorted(topics):
    text = topics[name].strip()
    if text not in texts:  # `if` and `else` have the same topic.
      texts.add(text)
      yield f'topics/{name}', text
  for name, source in _sources():
    for node in ast.walk(ast.parse(source)):
      if not isinstance(
        node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
      ):
        continue
      text = inspect.cleandoc(ast.get_docstring(node) or '').strip()
      if len(text) >= _SHORTEST and text not in texts:
        texts.add(text)
        yield f'{name}/{getattr(node, "name", "")}', text


def python_source() -> Iterator[tuple[str, str]]:
  """Yields (name, source) of every module of the standard library."""
  yield from _sources()


def _sources() -> Iterator[tuple[str, str]]:
  """Yields (path, source) of the modules that can be parsed."""
  root = Path(sysconfig.get_paths()['stdlib'])
  for path in library_files():
    with contextlib.suppress(SyntaxError, UnicodeDecodeError):
      with tokenize.open(path) as file:
        source = file.read()
      ast.parse(source)
      if source.strip():
        yield str(path.relative_to(root)), source


def bundled_fingerprint(name: str) -> str:
  """Returns a string that identifies the contents of a bundled corpus."""
  return f'{name}/{VERSION}/{platform.python_version()}'


@functools.cache
def library_digest() -> str:
  """Returns a hash of the names and sizes of the standard library's modules.

  Two builds of the same Python version, such as that of a Linux distribution
  and that of python.org, can contain different modules.
  """
  root = Path(sysconfig.get_paths()['stdlib'])
  sizes = [
    (str(path.relative_to(root)), path.stat().st_size)
    for path in library_files()
  ]
  return hashlib.sha256(repr(sizes).encode()).hexdigest()[:8]


def bundled(name: str) -> Sequence[dict[str, Any]]:
  """Returns the documents of a bundled corpus, which is built if needed.

  Each document is a dict of `name` and `text`, both bytes.

  Raises:
    UserError: there is no such corpus, or it cannot be written to the cache.
  """
  interpreter = f'python-{platform.python_version()}-{library_digest()}'
  data_dir = cache_dir() / 'tfds' / interpreter
  builder = _builder(name, data_dir)
  if not builder.is_prepared():
    # Built in a temporary folder and renamed, so that processes that build it
    # at the same time do not write to the same files.
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
        shutil.rmtree(built)  # Another process has built it first.
    builder = _builder(name, data_dir)
  return builder.as_data_source(split='train')


def quiet_tfds() -> Any:
  """Imports TFDS without progress bars and without access to Google Cloud.

  The import takes seconds, and most uses of this package do not need TFDS.
  """
  import tensorflow_datasets as tfds

  logging.getLogger('absl').setLevel(logging.ERROR)
  tfds.disable_progress_bar()
  tfds.core.utils.gcs_utils._is_gcs_disabled = True
  # The default of ten retries takes three minutes if there is no network.
  name = 'tensorflow_datasets.core.download.downloader'
  vars(importlib.import_module(name))['MAX_RETRIES'] = 5
  logging.getLogger('urllib3').setLevel(logging.ERROR)
  return tfds


def _builder(name: str, data_dir: Path) -> Any:
  """Returns the TFDS builder of a bundled corpus in `data_dir`."""
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
      del dl_manager  # Nothing is downloaded.
      return {'train': self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, str]]]:
      for index, (title, text) in enumerate(documents[name]()):
        text = text.encode('utf-8', 'replace').decode()
        yield index, {'name': title, 'text': text}

  Corpus.name = name
  return Corpus(data_dir=str(data_dir), file_format='array_record')
