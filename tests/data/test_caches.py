"""Caches: each part of a key changes what is read, or two texts would share."""

import importlib.metadata
import os

import pytest

from textdiffusion.data import (
  corpora,
  packing,
  pipeline,
  sources,
  tokenizer,
)
from textdiffusion.data.pipeline import DataConfig, open_data
from textdiffusion.data.tokenizers import TokenizerConfig

LINES = ''.join(f'{{"id": {i}, "text": "sentence {i}"}}\n' for i in range(200))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  folder = tmp_path / 'cache'
  monkeypatch.setenv('TEXTDIFFUSION_DATA', str(folder))
  return folder


def opened(source, **settings):
  return open_data(
    DataConfig(source, **{'length': 8, 'holdout': 0.0, **settings})
  )


@pytest.mark.parametrize('kind', ['files', 'pairs'])
def test_a_renamed_file_is_read_anew(tmp_path, kind):
  """The bytes are the same, the texts are not: `*` matches either name."""
  text = LINES if kind == 'files' else '{"src": "a|b", "trg": "c"}\n' * 30
  path, option = tmp_path / 'a.txt', '' if kind == 'files' else '?sep=|'
  path.write_text(text)
  before = opened(f'{kind}:{tmp_path}/a.*{option}')
  path.rename(tmp_path / 'a.jsonl')
  after = opened(f'{kind}:{tmp_path}/a.*')
  count = 200 if kind == 'files' else 30
  assert after.counts['train']['documents'] == count
  assert before.counts['train']['tokens'] != after.counts['train']['tokens']
  assert before.fingerprint != after.fingerprint


def test_pairs_of_two_formats_are_not_taken_for_each_other(tmp_path):
  """Equal bytes under equal options, read as JSON first or last."""
  prints = []
  for names in (('a.txt', 'b.jsonl'), ('a.jsonl', 'b.txt')):
    folder = tmp_path / names[0]
    folder.mkdir()
    for name in names:
      (folder / name).write_text('{"src": "a|b", "trg": "c"}\n')
    source = sources.open_source(f'pairs:{folder}/*?sep=|', 0.0)
    assert len(set(source.pairs('train'))) == 2
    prints.append(source.fingerprint)
  assert prints[0] != prints[1]


def test_files_at_another_place_are_the_same(tmp_path):
  made = []
  for name in ('one', 'two'):
    folder = tmp_path / name
    folder.mkdir()
    (folder / 'a.src').write_text('a\nb\n' * 9)
    (folder / 'a.trg').write_text('c\nd\n' * 9)
    made.append(opened(f'pairs:{folder}/a.src,{folder}/a.trg').fingerprint)
  (folder / 'a.trg').write_text('c\ne\n' * 9)
  made.append(opened(f'pairs:{folder}/a.src,{folder}/a.trg').fingerprint)
  assert made[0] == made[1] != made[2]


VERSIONS = [
  (sources, 'VERSION'),
  (packing, '_VERSION'),
  (tokenizer, 'VERSION'),
]


@pytest.mark.parametrize(('module', 'name'), VERSIONS)
def test_a_version_of_the_reader_reads_anew(
  tmp_path, cache, monkeypatch, module, name
):
  (tmp_path / 'a.txt').write_text(LINES)
  first = opened(f'files:{tmp_path}/a.txt')
  made = set((cache / 'tokens').iterdir())
  monkeypatch.setattr(module, name, 'another')
  again = opened(f'files:{tmp_path}/a.txt')
  assert len(set((cache / 'tokens').iterdir()) - made) == 2
  assert first.fingerprint == again.fingerprint, 'a run can still go on'


@pytest.mark.parametrize('change', ['library', 'reader', 'code', 'size'])
def test_a_sentencepiece_model_is_trained_anew(
  tmp_path, cache, monkeypatch, change
):
  path = tmp_path / 'a.txt'
  path.write_text(LINES)
  size = 290
  model = lambda: opened(
    f'files:{path}?split=line',
    tokenizer=TokenizerConfig('sentencepiece', vocab_size=size),
  )
  model(), model()
  assert len(list((cache / 'tokenizers').iterdir())) == 1
  tokens = len(list((cache / 'tokens').iterdir()))
  if change == 'library':
    version = importlib.metadata.version
    monkeypatch.setattr(
      importlib.metadata,
      'version',
      lambda name: '9' if name == 'sentencepiece' else version(name),
    )
  elif change == 'reader':
    monkeypatch.setattr(sources, 'VERSION', 'another')
  elif change == 'code':
    monkeypatch.setattr(pipeline, 'VERSION', 'another')
    monkeypatch.setattr(tokenizer, 'VERSION', 'another')
  else:
    size = 295
  model()
  assert len(list((cache / 'tokenizers').iterdir())) == 2
  assert len(list((cache / 'tokens').iterdir())) == tokens + 2


def test_tokenizers_do_not_share_tokens(tmp_path):
  (tmp_path / 'a.txt').write_text('ab AB\n' * 9)
  read = lambda *args: (
    opened(f'files:{tmp_path}/a.txt', tokenizer=TokenizerConfig(*args))
    .train.tokens.ids[:6]
    .tolist()
  )
  made = [
    read('bytes'),
    read('characters'),
    read('words'),
    read('bytes', '', 0, ('bos', 'mask')),
  ]
  assert made[0] == [97, 98, 32, 65, 66, 10]
  assert made[1] == [1, 2, 0, 1, 2, 0]
  assert made[2] == [2, 1, 2, 1, 2, 1]


def test_a_share_held_out_is_part_of_the_key(tmp_path):
  (tmp_path / 'a.txt').write_text(LINES)
  counts = [
    opened(f'files:{tmp_path}/a.txt?split=line', holdout=share).counts
    for share in (0.0, 0.3, 0.3)
  ]
  assert counts[0] != counts[1] == counts[2]


def test_a_law_that_changes_is_drawn_anew(monkeypatch):
  """Sentences are drawn by the rules and by NumPy's generator."""
  before = sources.open_source('toy_grammar:9', 0.0)
  default_rng = sources.np.random.default_rng
  monkeypatch.setattr(
    sources.np.random, 'default_rng', lambda seed: default_rng(seed + 9)
  )
  after = sources.open_source('toy_grammar:9', 0.0)
  assert before.reading != after.reading


def test_another_build_of_the_same_python_is_another_corpus(
  tmp_path, monkeypatch
):
  """Two builds of one version differ in their modules."""
  digests = set()
  for size in (10, 20):
    (tmp_path / 'a.py').write_text('#' * size)
    monkeypatch.setattr(
      corpora.sysconfig, 'get_paths', lambda: {'stdlib': str(tmp_path)}
    )
    digests.add(corpora.library_digest.__wrapped__())
  assert len(digests) == 2


def test_a_dataset_that_is_built_anew_is_read_anew(tmp_path):
  path = tmp_path / 'x-train.array_record-00000-of-00001'
  path.write_bytes(b'one')
  before = sources._built_files(tmp_path)
  assert sources._built_files(tmp_path) == before
  path.write_bytes(b'two')
  os.utime(path, ns=(1, 1))
  assert sources._built_files(tmp_path) != before
