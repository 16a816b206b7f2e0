"""Rows and batches: packing, order, hosts, resuming, caches."""

import dataclasses
import itertools

import numpy as np
import pytest

from textdiffusion.core.types import UserError
from textdiffusion.data.packing import Rows
from textdiffusion.data.pipeline import (
  DataConfig,
  eval_batches,
  open_data,
  train_iterator,
)
from textdiffusion.data.tokenizers import (
  Bytes,
  Characters,
  SentencePiece,
  TokenizerConfig,
)

DOCUMENTS = ['aaaa', 'bb', 'cccccc', 'd', 'eee']


@pytest.fixture
def source(tmp_path):
  path = tmp_path / 'lines.txt'
  path.write_text('\n'.join(DOCUMENTS))
  return f'files:{path}?split=line'


def opened(source, **settings):
  return open_data(
    DataConfig(
      source, **{'length': 5, 'batch_size': 2, 'holdout': 0.0, **settings}
    )
  )


def joined(data):
  return [data.tokenizer.pieces(row['ids']) for row in data.train]


def test_packed_rows_run_documents_on(source):
  data = opened(source)
  stream = [
    piece for text in DOCUMENTS for piece in [*text, '<eos>']
  ]  # 21 tokens: the tail of one is left out
  assert list(itertools.chain(*joined(data))) == stream[:20]
  row = data.train[1]
  assert (row['segments'] == 1).all()
  np.testing.assert_array_equal(row['positions'], np.arange(5))
  assert data.counts['train'] == {'documents': 5, 'tokens': 21, 'bytes': 16}


def test_packed_rows_that_respect_documents(source):
  data = opened(source, respect_documents=True)
  rows = [data.train[i] for i in range(4)]
  segments = [row['segments'].tolist() for row in rows]
  positions = [row['positions'].tolist() for row in rows]
  # aaaa$ | bb$cc | cccc$ | d$eee
  assert segments == [
    [1] * 5, [1, 1, 1, 2, 2], [1] * 5, [1, 1, 2, 2, 2],
  ]  # fmt: skip
  assert positions == [
    [0, 1, 2, 3, 4], [0, 1, 2, 0, 1], [0, 1, 2, 3, 4], [0, 1, 0, 1, 2],
  ]  # fmt: skip


def test_a_document_a_row(source):
  data = opened(source, rows='document', length=7)
  row, pad = data.train[1], data.tokenizer.vocab.pad_id
  assert len(data.train) == 5
  assert data.tokenizer.decode(row['ids']) == 'bb'
  assert row['ids'].tolist()[3:] == [pad] * 4
  assert row['segments'].tolist() == [1, 1, 1, 0, 0, 0, 0]
  modelled = opened(source, rows='document', length=7, model_padding=True)
  assert (modelled.train[1]['segments'] == 1).all()


def test_long_documents_are_cut_or_left_out(source):
  """Rows of 5 with ends: aaaa$ bb$ cc|cccc$ d$ eee$."""
  whole = opened(source, rows='document', length=7)
  cut = opened(source, rows='document', long='cut')
  assert (
    cut.fingerprint != opened(source, rows='document', long='drop').fingerprint
  )
  vocab = cut.tokenizer.vocab
  assert len(cut.train) == 5
  row = cut.train[2]
  assert row['ids'].tolist() == [
    *whole.train[2]['ids'][:4].tolist(),
    vocab.eos_id,
  ]
  assert row['segments'].tolist() == [1] * 5
  dropped = opened(source, rows='document', long='drop')
  sizes = [int((row['ids'] != vocab.pad_id).sum()) for row in dropped.train]
  assert sizes == [5, 3, 2, 4] == dropped.train.needed.tolist()
  assert cut.train.needed.tolist() == [5, 3, 5, 2, 4]


def test_heldout_keeps_its_tail_padded(source):
  tokens = opened(source).train.tokens  # 21 of them
  rows = Rows(tokens, 8, 'packed', False, False, 7, keep_tail=True)
  assert len(rows) == 3
  last = rows[2]
  assert last['segments'].tolist() == [1] * 5 + [0] * 3
  assert last['ids'].tolist()[5:] == [7] * 3


def taken(iterator, count):
  return [next(iterator) for _ in range(count)]


def test_every_epoch_gives_each_row_once_in_another_order():
  rows = big_rows()
  batches = taken(train_iterator(rows, 8, seed=3), 2 * len(rows) // 8)
  ids = np.concatenate([batch['ids'][:, 0] for batch in batches])
  first, second = np.split(ids, 2)
  assert sorted(first) == sorted(second) == sorted(r['ids'][0] for r in rows)
  assert (first != second).any()
  other = taken(train_iterator(rows, 8, seed=4), 1)[0]
  assert (other['ids'] != batches[0]['ids']).any()


def big_rows():
  from textdiffusion.data.packing import Tokens

  tokens = Tokens(np.arange(64 * 4, dtype=np.int32), np.array([256]), 256)
  return Rows(tokens, 4, 'packed', False, False, 0, False)


@pytest.mark.parametrize('num_hosts', [2, 4])
def test_hosts_share_the_same_global_batches(num_hosts):
  rows = big_rows()
  whole = taken(train_iterator(rows, 8, seed=0), 5)
  parts = [
    taken(train_iterator(rows, 8, 0, host, num_hosts), 5)
    for host in range(num_hosts)
  ]
  for i, batch in enumerate(whole):
    for key in ('ids', 'rows'):
      shares = [part[i][key] for part in parts]
      np.testing.assert_array_equal(np.concatenate(shares), batch[key])


@pytest.mark.parametrize('num_hosts', [1, 2])
def test_state_resumes_exactly_on_any_number_of_hosts(num_hosts):
  rows = big_rows()
  iterator = train_iterator(rows, 8, seed=0)
  taken(iterator, 11)
  state = iterator.get_state()
  expected = taken(iterator, 3)
  fresh = train_iterator(rows, 8, 0, num_hosts - 1, num_hosts)
  fresh.set_state(state)
  for batch, want in zip(taken(fresh, 3), expected, strict=True):
    share = 8 // num_hosts
    np.testing.assert_array_equal(batch['ids'], want['ids'][-share:])


def test_eval_batches_in_order_with_blank_rows_at_the_end():
  rows = big_rows()
  batches = list(eval_batches(rows, 5, limit=12))
  assert [batch['ids'].shape for batch in batches] == [(5, 4)] * 3
  counted = np.concatenate([batch['segments'].any(-1) for batch in batches])
  assert counted.tolist() == [True] * 12 + [False] * 3
  order = np.concatenate([batch['rows'] for batch in batches])
  np.testing.assert_array_equal(order, np.arange(15))


def test_a_seed_chooses_rows_to_evaluate():
  rows = big_rows()
  first = lambda *args: [
    int(row[0])
    for batch in eval_batches(rows, 5, *args)
    for row, is_there in zip(batch['ids'], batch['segments'].any(-1))
    if is_there
  ]
  assert first(12) == list(range(0, 48, 4))
  one = first(12, 3)
  assert len(set(one)) == 12 and one == sorted(one) != first(12)
  assert one == first(12, 3) != first(12, 4)
  assert first(0, 3) == first() == first(64, 3)


@pytest.mark.parametrize('respect', [False, True])
def test_each_token_of_a_packed_row_has_its_document(source, respect):
  """Documents of the corpus, ends included, have 4, 3, 5, 5 and 4 tokens."""
  data = opened(source, respect_documents=respect)
  rows = Rows(data.train.tokens, 8, 'packed', respect, False, 7, True)
  batch = next(eval_batches(rows, 4))
  sizes = np.diff(data.train.tokens.ends, prepend=0)
  want = np.repeat(np.arange(len(sizes)), sizes).tolist()
  found = batch['documents'].ravel()
  assert found[: len(want)].tolist() == want and sizes.sum() == len(want)
  assert (found[len(want) :] == -1).all() and len(found) == 32


def test_rows_of_documents_have_one_each(source):
  data = opened(source, rows='document', length=7)
  batch = next(eval_batches(data.train, 5))
  for i, (row, segments) in enumerate(
    zip(batch['documents'], batch['segments'])
  ):
    assert (row == np.where(segments > 0, i, -1)).all()
  modelled = opened(source, rows='document', length=7, model_padding=True)
  batch = next(eval_batches(modelled.train, 5))
  assert (batch['documents'] == np.arange(5)[:, None]).all()


def test_fingerprint_names_texts_tokenizer_and_layout(source):
  base = opened(source)
  assert opened(source).fingerprint == base.fingerprint
  assert opened(source, seed=5, batch_size=1).fingerprint == base.fingerprint
  others = [
    opened(source, length=6),
    opened(source, respect_documents=True),
    opened(source, tokenizer=TokenizerConfig('characters')),
    opened('toy_grammar:9'),
  ]
  prints = {data.fingerprint for data in [base, *others]}
  assert len(prints) == 5


def test_tokens_are_cached(source, data_folder):
  opened(source)
  made = set((data_folder / 'tokens').iterdir())
  opened(source, length=4)
  assert set((data_folder / 'tokens').iterdir()) == made


def test_tokenizers_do_not_share_cached_tokens(source, data_folder):
  """One text and one folder of caches: each tokenizer reads its own tokens."""
  specials = ('eos', 'mask', 'pad', 'bos')
  kinds = [
    TokenizerConfig(),
    TokenizerConfig('characters'),
    TokenizerConfig(specials=specials),
  ]
  for _ in range(2):  # written, then read
    ids = []
    for kind in kinds:
      data = opened(source, tokenizer=kind)
      ids.append(np.asarray(data.train.tokens.ids).tolist())
      eos = data.tokenizer.vocab.eos_id
      want = [[*data.tokenizer.encode(text), eos] for text in DOCUMENTS]
      assert ids[-1] == list(itertools.chain(*want))
    assert ids[0] != ids[1] and ids[0] != ids[2]


@pytest.mark.parametrize(
  'settings, told',
  [
    ({'length': 1}, 'data.length=1'),
    ({'batch_size': 0}, 'data.batch_size=0'),
    ({'length': 100}, 'is too small'),
    ({'rows': 'document'}, 'document 2 has 7 tokens.*row 5.*data.long=cut'),
    ({'model_padding': True}, 'data.rows=document'),
    ({'rows': 'lines'}, "data.rows='lines': must be one of packed, document"),
    ({'seed': -1}, 'data.seed=-1'),
    ({'holdout': 0.999}, 'lower data.holdout'),
    (
      {'rows': 'document', 'length': 9,
       'tokenizer': TokenizerConfig(specials=('eos', 'mask'))},
      'no pad token',
    ),
  ],
)  # fmt: skip
def test_bad_settings(source, settings, told):
  with pytest.raises(UserError, match=told):
    opened(source, **settings)


def test_a_sentencepiece_model_is_trained_once(source, monkeypatch):
  path = source.removeprefix('files:').partition('?')[0]
  with open(path, 'a') as file:
    file.write('\n'.join(f'some words {i}' for i in range(200)))
  pieces = TokenizerConfig('sentencepiece', vocab_size=290)
  first = opened(source, tokenizer=pieces)
  assert first.tokenizer.base_size == 290

  def fail(*_):
    raise AssertionError('trained again')

  monkeypatch.setattr(SentencePiece, 'train', fail)
  assert opened(source, tokenizer=pieces).tokenizer == first.tokenizer
  for other in (
    {'tokenizer': TokenizerConfig('sentencepiece', vocab_size=291)},
    {'tokenizer': pieces, 'holdout': 0.2},
  ):
    with pytest.raises(AssertionError, match='trained again'):
      opened(source, **other)
  with pytest.raises(UserError, match='ask for another'):
    open_data(
      DataConfig(source, TokenizerConfig('sentencepiece', vocab_size=291)),
      first.tokenizer,
    )


def test_the_protocol_says_how_the_split_was_made(source):
  assert '0.05 of documents by hash' in DataConfig(source).protocol()
  assert 'another seed' in DataConfig('toy_grammar:90').protocol()


def test_an_empty_corpus_is_refused(tmp_path):
  (tmp_path / 'empty.txt').write_text('')
  with pytest.raises(UserError, match='is too small.*0 tokens'):
    opened(f'files:{tmp_path}/empty.txt')


def test_a_batch_that_hosts_cannot_share():
  with pytest.raises(UserError, match='batch_size=8 is not divisible by 3'):
    train_iterator(big_rows(), 8, 0, 0, 3)


def test_a_checkpoints_tokenizer_refuses_data_of_another(source):
  config = DataConfig(source, length=5, holdout=0.0)
  assert open_data(config, Bytes()).tokenizer == Bytes()
  with pytest.raises(UserError, match='characters tokenizer.*ask for another'):
    open_data(config, Characters())
  fewer = dataclasses.replace(
    config, tokenizer=TokenizerConfig(specials=('mask', 'eos'))
  )
  with pytest.raises(UserError, match='ask for another'):
    open_data(fewer, Bytes())


def documents(sizes):
  """Rows of documents of so many tokens; token = the document's number."""
  from textdiffusion.data.packing import Tokens

  ids = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
  tokens = Tokens(ids, np.cumsum(sizes), len(ids))
  return Rows(tokens, 16, 'document', False, False, 99, False)


SIZES = np.random.default_rng(0).integers(1, 17, 96)
BUCKETS = (4, 7)


def test_a_batch_is_as_long_as_its_bucket():
  """Every epoch of a bucket gives each of its rows once, in another order, and
  buckets take turns by their rows."""
  rows, widths = documents(SIZES), [4, 7, 16]
  np.testing.assert_array_equal(rows.needed, SIZES)
  batches = taken(train_iterator(rows, 4, seed=3, buckets=BUCKETS), 480)
  seen = {width: [] for width in widths}
  for batch in batches:
    seen[batch['ids'].shape[1]].append(batch)
    assert batch['rows'].tolist() == [0, 1, 2, 3]
  for least, width in zip([0, 4, 7], widths):
    members = np.flatnonzero((least < SIZES) & (width >= SIZES))
    assert abs(len(seen[width]) - 480 * len(members) / 96) <= 1
    ids = np.concatenate([batch['ids'][:, 0] for batch in seen[width]])
    size = len(members)
    first, second = ids[:size], ids[size : 2 * size]
    assert sorted(first) == sorted(second) == members.tolist()
    assert (first != second).any()
    for batch in seen[width]:
      counts = batch['segments'].sum(-1)
      np.testing.assert_array_equal(counts, SIZES[batch['ids'][:, 0]])
      assert (batch['ids'][batch['segments'] == 0] == 99).all()
  # Turns are spread evenly: after any number of batches each has its share.
  is_short = np.cumsum([batch['ids'].shape[1] == 4 for batch in batches])
  share = (SIZES <= 4).mean() * np.arange(1, 481)
  assert np.abs(is_short - share).max() < 2


@pytest.mark.parametrize('num_hosts', [1, 2])
def test_hosts_take_turns_together_and_resume(num_hosts):
  rows = documents(SIZES)
  whole = taken(train_iterator(rows, 4, 0, buckets=BUCKETS), 30)
  assert len({batch['ids'].shape for batch in whole}) == 3
  for host in range(num_hosts):
    part = train_iterator(rows, 4, 0, host, num_hosts, BUCKETS)
    taken(part, 11)
    state = part.get_state()
    again = train_iterator(rows, 4, 0, host, num_hosts, BUCKETS)
    again.set_state(state)
    share = slice(host * 4 // num_hosts, (host + 1) * 4 // num_hosts)
    for batch, want in zip(taken(again, 19), whole[11:], strict=True):
      np.testing.assert_array_equal(batch['ids'], want['ids'][share])


def test_a_bucket_without_rows_has_no_turn():
  batches = taken(train_iterator(documents([3] * 8), 4, 0, buckets=(2, 5)), 9)
  assert {batch['ids'].shape for batch in batches} == {(4, 5)}


@pytest.mark.parametrize(
  ('settings', 'said'),
  [
    ({'buckets': (8, 8)}, r'data.buckets=\(8, 8\): lengths must grow'),
    ({'buckets': (1,)}, 'from at least 2'),
    ({'buckets': (16,)}, 'below data.length=16'),
    ({'buckets': (8,), 'rows': 'packed'}, 'packed rows .* leave it empty'),
    ({'buckets': (8,), 'model_padding': True}, 'modelled padding'),
  ],
)
def test_buckets_that_make_no_sense(settings, said):
  with pytest.raises(UserError, match=said):
    DataConfig(**{'length': 16, 'rows': 'document', **settings})
