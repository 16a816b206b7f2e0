"""Pairs: formats, splits, layouts of rows, what is refused."""

import gzip
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from textdiffusion.core.types import UserError, is_counted
from textdiffusion.data import corpora
from textdiffusion.data.packing import _fitted
from textdiffusion.data.pipeline import (
  DataConfig,
  eval_batches,
  open_data,
  train_iterator,
  without_sources,
)
from textdiffusion.data.sources import open_source
from textdiffusion.data.tokenizers import TokenizerConfig, Words, from_json

PAIRS = [('ab', 'cde'), ('f', 'g'), ('hijkl', 'm'), ('no', 'pqrstu')]


def jsonl(pairs, names=('src', 'trg')):
  return '\n'.join(json.dumps(dict(zip(names, pair))) for pair in pairs)


def read(source, split='train', holdout=0.0):
  pairs = open_source(source, holdout).pairs
  assert pairs is not None
  return list(pairs(split))


@pytest.fixture
def files(tmp_path):
  (tmp_path / 'all.jsonl').write_text(jsonl(PAIRS))
  (tmp_path / 'named.jsonl').write_text(jsonl(PAIRS, ('question', 'answer')))
  (tmp_path / 'train.src').write_text('ab\nf\nhijkl\nno\n')
  (tmp_path / 'train.trg').write_text('cde\ng\nm\npqrstu\n')
  (tmp_path / 'valid.src').write_text('x\n')
  (tmp_path / 'valid.trg').write_text('y\n')
  lines = ''.join(f'{one}||{other} \n' for one, other in PAIRS)
  with gzip.open(tmp_path / 'e2e_train.txt.gz', 'wt') as file:
    file.write(lines)
  (tmp_path / 'e2e_dev.txt').write_text('name : x | y||z')
  (tmp_path / 'tabs.tsv').write_text(lines.replace('||', '\t'))
  return tmp_path


@pytest.mark.parametrize(
  'spec',
  [
    'all.jsonl',
    'named.jsonl?src=question&trg=answer',
    '{split}.src,{split}.trg',
    'e2e_{split}.txt*?sep=||&heldout=dev',
    'tabs.tsv?sep=tab',
  ],
)
def test_every_format_gives_the_same_pairs(files, spec):
  parts = [f'{files}/{part}' for part in spec.split(',')]
  source = f'pairs:{",".join(parts)}'
  assert read(source) == PAIRS
  if '{split}' in spec:
    held = read(source, 'heldout')
    assert held == [('x', 'y')] or held == [('name : x | y', 'z')]
  # As documents they are their targets; a vocabulary sees both sides.
  opened = open_source(source, 0.0)
  assert list(opened.documents('train')) == [target for _, target in PAIRS]
  assert sorted(opened.texts()) == sorted(sum(map(list, PAIRS), []))


def test_a_source_is_on_one_side_only(files):
  pairs = [(f's{i % 40}', f't{i}') for i in range(200)]
  (files / 'many.jsonl').write_text(jsonl(pairs))
  source = f'pairs:{files}/many.jsonl'
  train, held = (read(source, split, 0.3) for split in ('train', 'heldout'))
  assert sorted(train + held) == sorted(pairs) and train and held
  assert not {s for s, _ in train} & {s for s, _ in held}


def test_pairs_without_one_side_are_left_out(files):
  (files / 'gaps.jsonl').write_text(jsonl([*PAIRS, ('', 'x'), ('y', ' ')]))
  assert read(f'pairs:{files}/gaps.jsonl') == PAIRS


def test_contents_make_the_fingerprint(files):
  made = lambda: (
    open_source(
      f'pairs:{files}/{{split}}.src,{files}/{{split}}.trg', 0.0
    ).fingerprint
  )
  before = made()
  assert made() == before
  (files / 'valid.trg').write_text('z\n')
  assert made() != before


@pytest.mark.parametrize(
  'spec, told',
  [
    ('absent.jsonl', 'matches no file'),
    ('{split}.jsonl', r'matches no file \(train\)'),
    ('named.jsonl', "named.jsonl:1: no text in the field 'src'.*question"),
    ('tabs.tsv', 'no separator of source'),
    ('tabs.tsv?sep=@@', "tabs.tsv:1: no '@@' in the line"),
    ('all.jsonl,train.src,train.trg', 'names 3 patterns'),
    ('train.src,valid.trg', 'valid.trg ends after 1 lines and .*train.src'),
    ('broken.jsonl', 'broken.jsonl:1: not JSON'),
    ('latin.jsonl', r'latin.jsonl: byte 9 \(0xe9\) is not UTF-8'),
    ('all.jsonl?colour=red', "unknown option 'colour'"),
  ],
)
def test_what_cannot_be_read_is_named(files, spec, told):
  (files / 'broken.jsonl').write_text('{"src": ')
  (files / 'latin.jsonl').write_bytes(b'{"src": "\xe9"}')
  parts = ','.join(f'{files}/{part}' for part in spec.split(','))
  with pytest.raises(UserError, match=told):
    read(f'pairs:{parts}')


def data_config(files, **settings):
  return DataConfig(
    f'pairs:{files}/all.jsonl', **{'length': 12, 'holdout': 0.0, **settings}
  )


def opened(files, **settings):
  return open_data(data_config(files, **settings))


def pieces(data, row, name='ids'):
  names = {'<eos>': '.', '<pad>': '_'}
  return ''.join(names.get(p, p) for p in data.tokenizer.pieces(row[name]))


@pytest.mark.parametrize('model_padding', [False, True])
def test_joined_rows(files, model_padding):
  data = opened(files, rows='joined', model_padding=model_padding)
  row = data.train[0]
  assert pieces(data, row) == 'ab.cde._____'
  assert row['is_given'].tolist() == [True] * 3 + [False] * 9
  padding = int(model_padding)
  assert row['segments'].tolist() == [1] * 7 + [padding] * 5
  assert row['positions'].tolist() == list(range(12))
  assert pieces(data, data.train[3]) == 'no.pqrstu.__'


def test_separate_rows(files):
  data = opened(files, rows='separate', length=7, source_length=6)
  row = data.train[2]
  assert pieces(data, row) == 'm._____'
  assert pieces(data, row, 'source')[:6] == 'hijkl.'
  short = data.train[1]
  assert short['source_segments'].tolist() == [1, 1, 0, 0, 0, 0]
  assert set(row) == {
    'ids', 'segments', 'positions', 'source', 'source_segments'
  }  # fmt: skip
  batch = next(train_iterator(data.train, 2, 0))
  assert batch['source'].shape == (2, 6) and batch['ids'].shape == (2, 7)


def test_a_share_of_joined_rows_loses_its_source(files):
  """A row without a source is the target alone; hosts and resuming change
  nothing, and each epoch draws anew."""
  data = opened(files, rows='joined', model_padding=True)
  whole = {pieces(data, row) for row in data.train}
  alone = {'cde.________', 'g.__________', 'm.__________', 'pqrstu._____'}
  iterator = train_iterator(data.train, 4, 3, source_dropout=0.25)
  batches = [next(iterator) for _ in range(100)]
  rows = [
    (pieces(data, {'ids': ids}), is_given.any())
    for batch in batches
    for ids, is_given in zip(batch['ids'], batch['is_given'])
  ]
  assert {text for text, has_source in rows if has_source} == whole
  assert {text for text, has_source in rows if not has_source} == alone
  share = np.mean([not has_source for _, has_source in rows])
  assert abs(share - 0.25) < 4 * (0.25 * 0.75 / len(rows)) ** 0.5
  kinds = [batch['is_given'].any(1).tolist() for batch in batches]
  assert len(set(map(tuple, kinds))) > 5
  halves = [
    train_iterator(data.train, 4, 3, host, 2, source_dropout=0.25)
    for host in range(2)
  ]
  for batch in batches[:20]:
    parts = [next(half) for half in halves]
    for name in ('ids', 'is_given', 'positions', 'segments'):
      both = np.concatenate([part[name] for part in parts])
      np.testing.assert_array_equal(both, batch[name])
  # Held-out rows keep theirs, and what rows there are does not change.
  same = opened(files, rows='joined', model_padding=True, source_dropout=0.25)
  assert {pieces(same, row) for row in same.train} == whole
  assert same.fingerprint == data.fingerprint
  with pytest.raises(UserError, match='source_dropout=1.5: must be in'):
    DataConfig(source_dropout=1.5)


def test_the_targets_alone(files):
  """The rows that `source_dropout` makes, for an evaluation without sources."""
  config = dict(rows='joined', model_padding=True, source_dropout=0.5)
  data = opened(files, **config)
  alone, settings = without_sources(data, data_config(files, **config))
  assert settings.rows == 'document' and not settings.source_dropout
  assert [pieces(alone, row) for row in alone.train] == [
    *('cde.________', 'g.__________', 'm.__________', 'pqrstu._____')
  ]
  assert 'is_given' not in alone.train[0]
  direct = open_data(settings)
  assert direct.fingerprint == alone.fingerprint
  for one, other in zip(direct.train, alone.train):
    np.testing.assert_array_equal(one['segments'], other['segments'])


def test_pairs_in_buckets(files):
  """A source is as much shorter as its target: of a bucket of 4 in 8, 5 of 10
  tokens; pairs of 3 and 4, 2 and 2, 6 and 2, 3 and 7 tokens."""
  apart = dict(rows='separate', length=8, source_length=10, buckets=(2, 4))
  data = opened(files, **apart)
  assert data.train.needed.tolist() == [4, 2, 5, 7]
  batches = train_iterator(data.train, 1, 0, buckets=(2, 4))
  shapes = {
    (b['ids'].shape[1], b['source'].shape[1], b['source_segments'].sum())
    for b in (next(batches) for _ in range(20))
  }
  assert shapes == {(4, 5, 3), (2, 3, 2), (8, 10, 6), (8, 10, 3)}
  joined = opened(files, rows='joined', buckets=(5, 8))
  assert joined.train.needed.tolist() == [7, 4, 8, 10]
  # The same rows, in another order.
  assert joined.fingerprint == opened(files, rows='joined').fingerprint
  cut = opened(files, rows='joined', length=6, long='cut', buckets=(4,))
  assert cut.train.needed.tolist() == [6, 4, 6, 6]


@pytest.mark.parametrize('rows, room', [('joined', 0), ('separate', 3)])
def test_pairs_of_one_source_are_one_document(tmp_path, rows, room):
  """Sources a, b, a and c: the targets of a are not independent."""
  path = tmp_path / 'pairs.tsv'
  path.write_text('a\tx\nb\ty\na\tzz\nc\tx\n')
  data = open_data(
    DataConfig(
      f'pairs:{path}?sep=tab',
      length=5,
      rows=rows,
      source_length=room,
      holdout=0.0,
    )
  )
  batch = next(eval_batches(data.train, 4))
  counted = is_counted(batch['segments'], batch.get('is_given'))
  found = [set(row[some]) for row, some in zip(batch['documents'], counted)]
  assert found == [{0}, {1}, {0}, {3}]


def test_long_pairs(files):
  with pytest.raises(UserError, match='pair 0 has 3 and 4 .* 3 of 4 pairs'):
    opened(files, rows='joined', length=6)
  dropped = opened(files, rows='joined', length=8, long='drop')
  assert [pieces(dropped, row) for row in dropped.train] == [
    'ab.cde._', 'f.g.____', 'hijkl.m.'
  ]  # fmt: skip
  cut = opened(files, rows='joined', length=6, long='cut')
  assert [pieces(cut, row) for row in cut.train] == [
    'ab.cd.', 'f.g.__', 'hij.m.', 'no.pq.'
  ]  # fmt: skip
  # Once alike, the sides lose by turns and keep their ends.
  both = opened(files, rows='joined', length=4, long='cut')
  assert [pieces(both, row) for row in both.train] == [
    'a.c.', 'f.g.', 'h.m.', 'n.p.'
  ]  # fmt: skip
  apart = opened(files, rows='separate', length=3, source_length=4, long='cut')
  assert pieces(apart, apart.train[3]) == 'pq.'
  assert pieces(apart, apart.train[2], 'source') == 'hij.'


@pytest.mark.parametrize(
  'settings, told',
  [
    ({'rows': 'separate'}, 'source_length=0 with data.rows=separate'),
    ({'source_length': 4}, 'source_length=4 with data.rows=packed'),
    ({'source': 'toy_grammar:9', 'rows': 'joined'}, 'rows=joined needs pairs'),
    (
      {'rows': 'joined', 'tokenizer': TokenizerConfig(specials=('eos',))},
      'no pad token, which data.rows=joined needs',
    ),
  ],
)
def test_settings_that_do_not_fit(files, settings, told):
  with pytest.raises(UserError, match=told):
    open_data(
      DataConfig(
        **{'source': f'pairs:{files}/all.jsonl', 'length': 12, **settings}
      )
    )


def test_words():
  texts = ['the cat', 'the dog', 'a cat the']
  words = Words.train(texts, 0, 2)
  assert words.vocab.size == 1 + 2 + 4
  assert words.pieces(words.encode('the  cat sat')) == [
    'the ',
    'cat ',
    '<unk> ',
  ]
  assert words.decode(words.encode('the cat')) == 'the cat'
  assert words.unknown('the cow sat') == ['cow', 'sat']
  assert words.byte_lengths.tolist() == [0, 4, 4, 0, 0, 0, 0]
  assert from_json(words.to_json()) == words
  assert Words.train(texts, 1, 1).vocab.size == 1 + 1 + 4
  # A text never encodes to a special, and an unknown word is one.
  assert words.encode('<mask> <unk>').tolist() == [0, 0]
  with pytest.raises(UserError, match='min_count=9: no word'):
    Words.train(texts, 0, 9)


def test_words_of_both_sides(files):
  (files / 'words.jsonl').write_text(jsonl([('a b', 'c a'), ('b', 'c')]))
  data = open_data(
    DataConfig(
      f'pairs:{files}/words.jsonl',
      TokenizerConfig('words', min_count=2),
      length=8,
      rows='joined',
      holdout=0.0,
    )
  )
  assert data.tokenizer.pieces(range(4)) == ['<unk> ', 'a ', 'b ', 'c ']
  np.testing.assert_array_equal(data.train[0]['ids'][:2], [1, 2])


def test_pairs_of_tfds(tmp_path):
  """A dataset prepared elsewhere, opened by name from its folder."""
  tfds = corpora.quiet_tfds()

  class Twins(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      text = tfds.features.Text()
      features = tfds.features.FeaturesDict({'en': text, 'ja': text})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {s: self._generate_examples(s) for s in ('train', 'dev')}

    def _generate_examples(self, split):
      for i in range(3):
        yield i, {'en': f'{split} {i}', 'ja': f'{split} {i}!'}

  Twins.name = 'twins'
  Twins(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  code = (
    'from textdiffusion.data.sources import open_source; '
    'spec = "pairs:tfds:twins/{split}?src=en&trg=ja&heldout=dev"; '
    'pairs = open_source(spec, 0.0).pairs; '
    'print(sorted(pairs("train")), sorted(pairs("heldout")))'
  )
  run = subprocess.run(
    [sys.executable, '-c', code],
    check=True,
    capture_output=True,
    text=True,
    env={**os.environ, 'TFDS_DATA_DIR': str(tmp_path)},
  )
  train = [(f'train {i}', f'train {i}!') for i in range(3)]
  held = [(f'dev {i}', f'dev {i}!') for i in range(3)]
  assert run.stdout.strip().endswith(f'{train} {held}')


@pytest.mark.parametrize(
  'sizes, length, cut',
  [
    ((5, 3), 8, (5, 3)),
    ((5, 3), 7, (4, 3)),
    ((5, 3), 5, (2, 3)),  # level after two tokens, and one more off the longer
    ((3, 5), 5, (3, 2)),
    ((3, 5), 4, (2, 2)),
  ],
)
def test_tokens_come_off_the_longer_side(sizes, length, cut):
  source, target = (np.arange(size) for size in sizes)
  one, other = _fitted(source, target, length)
  assert (len(one), len(other)) == cut
  assert one[-1] == source[-1] and other[-1] == target[-1]
