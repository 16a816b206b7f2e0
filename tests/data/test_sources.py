"""Sources: bundled text, files, TFDS; splits; what goes wrong."""

import gzip
import json
import math
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from textdiffusion.core.types import UserError
from textdiffusion.data import corpora
from textdiffusion.data.grammar import toy_grammar
from textdiffusion.data.sources import open_source


def texts(source, split='train', holdout=0.0):
  return list(open_source(source, holdout).documents(split))


def test_files_keep_document_boundaries(tmp_path):
  (tmp_path / 'a.txt').write_text('one\ntwo\n')
  with gzip.open(tmp_path / 'b.txt.gz', 'wt') as file:
    file.write('three\n')
  rows = [{'text': 'four', 'body': 'FOUR'}, {'text': 'five\nsix', 'body': 'V'}]
  (tmp_path / 'c.jsonl').write_text('\n'.join(map(json.dumps, rows)) + '\n')
  assert texts(f'files:{tmp_path}/*') == [
    'one\ntwo\n', 'three\n', 'four', 'five\nsix',
  ]  # fmt: skip
  assert texts(f'files:{tmp_path}/*.jsonl?key=body') == ['FOUR', 'V']
  assert texts(f'files:{tmp_path}/a.txt?split=line') == ['one', 'two']
  assert texts(f'files:{tmp_path}/?.txt?split=line') == ['one', 'two']
  (tmp_path / 'a.txt').write_text('\none\ntwo\n \n\nthree\n\n')
  assert texts(f'files:{tmp_path}/?.txt?split=blank') == ['one\ntwo', 'three']


def test_half_a_surrogate_pair_is_no_text(tmp_path):
  (tmp_path / 'a.jsonl').write_text(r'{"text": "a\ud800b"}')
  assert texts(f'files:{tmp_path}/a.jsonl') == ['a?b']


def test_splits_are_disjoint_complete_and_stable(tmp_path):
  path = tmp_path / 'd.txt'
  path.write_text('\n'.join(f'line {i % 700}' for i in range(1400)))
  name = f'files:{path}?split=line'
  train, heldout = texts(name, 'train', 0.2), texts(name, 'heldout', 0.2)
  assert len(train) + len(heldout) == 1400
  assert not set(train) & set(heldout), 'copies leak'
  assert 0.1 < len(heldout) / 1400 < 0.3
  more = texts(name, 'heldout', 0.4)
  assert set(heldout) < set(more), 'a document moved out of the held-out split'


def test_fingerprint_follows_the_contents(tmp_path):
  path = tmp_path / 'a.txt'
  prints = set()
  for text in ('one', 'two'):
    path.write_text(text)
    prints.add(open_source(f'files:{path}', 0.1).fingerprint)
  assert len(prints) == 2


def test_bundled_docs_are_built_once(data_folder):
  docs = texts('python_docs')
  assert len(docs) > 3000 and len(set(docs)) == len(docs)
  assert any('for_stmt' in text for text in docs), 'the language reference'
  assert sum(map(len, docs)) > 1_000_000
  built = list((data_folder / 'tfds').rglob('dataset_info.json'))
  before = [path.stat().st_mtime_ns for path in built]
  assert len(texts('python_docs')) == len(docs)
  assert before == [path.stat().st_mtime_ns for path in built]
  assert list((data_folder / 'tfds').rglob('*array_record*'))


_BUILD = """
import sys
from textdiffusion.data import corpora
corpora.python_docs = lambda: ((f'n{i}', f'text {i}') for i in range(500))
from textdiffusion.data.pipeline import DataConfig, open_data
corpora.quiet_tfds()
print('ready', flush=True)
sys.stdin.readline()
print(open_data(DataConfig(holdout=0.0)).counts['train'])
"""


def test_two_processes_that_build_at_once(tmp_path):
  """Both get all of it, print nothing else, and leave nothing behind."""
  environment = {**os.environ, 'TEXTDIFFUSION_DATA': str(tmp_path)}
  run = lambda: subprocess.Popen(
    [sys.executable, '-c', _BUILD],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    env=environment,
    text=True,
  )
  processes = [run(), run()]
  for process in processes:
    assert process.stdout.readline() == 'ready\n'
  for process in processes:  # both have imported: now they race
    process.stdin.write('\n')
    process.stdin.flush()
  told = [process.communicate()[0] for process in processes]
  assert [process.returncode for process in processes] == [0, 0]
  assert told[0] == told[1] and "'documents': 500" in told[0]
  assert len(told[0].splitlines()) == 1
  version = f'python-{platform.python_version()}-{corpora.library_digest()}'
  assert [p.name for p in (tmp_path / 'tfds').iterdir()] == [version]
  assert [p.name for p in (tmp_path / 'tfds' / version).iterdir()] == [
    'python_docs'
  ]


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  monkeypatch.setenv('TEXTDIFFUSION_DATA', str(tmp_path / 'file' / 'data'))
  with pytest.raises(UserError, match='set TEXTDIFFUSION_DATA'):
    corpora.cache_dir()


def test_bundled_source_leaves_tests_out():
  files = [str(path) for path in corpora.library_files()]
  assert any(name.endswith('/argparse.py') for name in files)
  assert not any('/test/' in name or 'site-packages' in name for name in files)
  name, source = next(corpora.python_source())
  assert name.endswith('.py') and source.strip()


def test_tensorflow_is_never_imported():
  code = (
    'import sys; from textdiffusion.data.sources import open_source; '
    'next(open_source("python_docs", 0.0).documents("train")); '
    'assert "tensorflow" not in sys.modules'
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_downloads_end_soon_without_a_network():
  """Ten tries, TFDS's own choice, wait for minutes before the error."""
  corpora.quiet_tfds()
  from tensorflow_datasets.core.download import downloader

  assert downloader.MAX_RETRIES <= 5


def test_any_tfds_dataset(tmp_path):
  """A dataset prepared elsewhere, opened by name from its folder."""
  tfds = corpora.quiet_tfds()

  class Letters(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features = {'body': tfds.features.Text(), 'label': np.int64}
      return tfds.core.DatasetInfo(
        builder=self, features=tfds.features.FeaturesDict(features)
      )

    def _split_generators(self, dl_manager):
      return {
        'train': self._generate_examples('a b', 'ç'),
        'test': self._generate_examples('', 'd'),
      }

    def _generate_examples(self, *texts):
      for label, text in enumerate(texts):
        yield label, {'body': text, 'label': label}

  Letters.name = 'letters'
  Letters(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  code = (
    'from textdiffusion.data.sources import open_source; '
    's = open_source("tfds:letters/train?key=body", 0.0); '
    'assert sorted(s.documents("train")) == ["a b", "ç"], "texts"; '
    's = open_source("tfds:letters/{split}?key=body&heldout=test", 0.5); '
    'assert sorted(s.documents("train")) == ["a b", "ç"], "not by hash"; '
    'assert list(s.documents("heldout")) == ["d"], "its own split"; '
    'assert s.fingerprint.count("letters") == 2, s.fingerprint\n'
    'try: list(open_source("tfds:letters/train?key=label", 0.0)'
    '.documents("train")); raise SystemExit("read")\n'
    'except ValueError as e: assert "no text" in str(e), e\n'
  )
  subprocess.run(
    [sys.executable, '-c', code],
    check=True,
    env={**os.environ, 'TFDS_DATA_DIR': str(tmp_path)},
  )


def test_toy_grammar_source_is_of_the_grammar():
  train = texts('toy_grammar:300')
  assert len(train) == 300 and len(texts('toy_grammar:300', 'heldout')) == 30
  assert all(math.isfinite(toy_grammar().log_prob(s)) for s in train[:50])
  assert train == texts('toy_grammar:300')


@pytest.mark.parametrize(
  'source, told',
  [
    ('python_doc', 'did you mean python_docs'),
    ('toy_grammar:many', "'many' is no number"),
    ('files:/nowhere/*.txt', 'matches no file'),
    ('tfds:no_such_dataset_/train', 'cannot be opened'),
    ('tfds:lm1b', 'names no split'),
    ('tfds:lm1b/train?field=text', "unknown option 'field'"),
  ],
)
def test_bad_sources(source, told):
  with pytest.raises(UserError, match=told):
    texts(source)


def test_bad_files(tmp_path):
  path = tmp_path / 'bad.txt'
  path.write_bytes(b'good\n\xff\xfe')
  with pytest.raises(UserError, match=r'bad.txt: byte 5 \(0xff\) is not UTF-8'):
    texts(f'files:{path}')
  with pytest.raises(UserError, match='byte 5'):
    texts(f'files:{path}?split=line')
  rows = tmp_path / 'rows.jsonl'
  rows.write_text('{"text": "a"}\n{"body": "b"}\n')
  with pytest.raises(UserError, match=r"rows.jsonl:2: no text .* 'text'"):
    texts(f'files:{rows}')
  rows.write_text('not json\n')
  with pytest.raises(UserError, match='rows.jsonl:1: not JSON'):
    texts(f'files:{rows}')
  cut = tmp_path / 'cut.txt.gz'
  whole = gzip.compress(b'some text' * 99)
  for data in (b'no gzip', whole[: len(whole) // 2]):
    cut.write_bytes(data)
    with pytest.raises(UserError, match='cut.txt.gz is no whole gzip file'):
      texts(f'files:{cut}')
  (tmp_path / 'folder.txt').mkdir()
  with pytest.raises(UserError, match='matches no file'):
    texts(f'files:{tmp_path}/folder.txt')
  with pytest.raises(UserError, match='split=line and split=blank'):
    texts(f'files:{path}?split=word')
  (tmp_path / 'c.csv').write_text('a')
  with pytest.raises(UserError, match='c.csv: only .txt'):
    texts(f'files:{tmp_path}/c.csv')
  with pytest.raises(UserError, match=r'data.holdout=1.5'):
    open_source('toy_grammar', 1.5)
