"""Token unigram and bigram: by hand, against known laws, on the same rows."""

import math

import numpy as np

from textdiffusion.core.types import Vocab
from textdiffusion.data.packing import PairRows, Rows, Tokens
from textdiffusion.data.pipeline import eval_batches
from textdiffusion.evals.baselines import (
  Bigram,
  Pairs,
  reference_bits,
  row_pairs,
  token_baselines,
  training_pairs,
)

PAD, EOS = 0, 4


class Alphabet:
  """A tokenizer of the ids 1, 2 and 3, with as many bytes."""

  vocab = Vocab(5, pad_id=PAD, eos_id=EOS)
  byte_lengths = np.array([0, 1, 2, 3, 0])


def split(documents):
  ids = [np.append(d, EOS) for d in documents]
  ends = np.cumsum([len(d) for d in ids])
  return Tokens(np.concatenate(ids).astype(np.int32), ends, 0)


def rows_of(documents, length=4, kind='packed', model_padding=False):
  tokens = split(documents)
  return Rows(tokens, length, kind, False, model_padding, PAD, keep_tail=True)


def batch_of(rows):
  return next(eval_batches(rows, len(rows)))


def test_each_token_has_the_one_before_it_in_its_row():
  """Rows 1 2 e 3 and 1 e _ _: the start of a row is the context 5."""
  pairs = row_pairs(batch_of(rows_of([[1, 2], [3, 1]])), 5)
  assert pairs.before.tolist() == [5, 1, 2, EOS, 5, 1]
  assert pairs.tokens.tolist() == [1, 2, EOS, 3, 1, EOS]


def test_modelled_padding_is_predicted_and_sources_are_not():
  rows = rows_of([[1], [2, 3]], 4, 'document', model_padding=True)
  pairs = row_pairs(batch_of(rows), 5)
  assert pairs.before.tolist() == [5, 1, EOS, PAD, 5, 2, 3, EOS]
  assert pairs.tokens.tolist() == [1, EOS, PAD, PAD, 2, 3, EOS, PAD]
  sources, targets = split([[1, 2]]), split([[3]])
  joined = PairRows(sources, targets, 6, 0, 'joined', 'refuse', False, PAD)
  pairs = row_pairs(batch_of(joined), 5)
  assert list(zip(*pairs)) == [(EOS, 3), (3, EOS)]


def test_smoothed_frequencies_by_hand():
  """Tokens 1 1 2 3 after 5 1 1 2, of 4; k = 1 and m = 1 without a slice."""
  pairs = Pairs(np.array([5, 1, 1, 2]), np.array([1, 1, 2, 3]))
  model = Bigram([pairs], 5)
  unigram = lambda count: (count + 1 / 5) / (4 + 1)
  asked = Pairs(np.array([1, 3, 1]), np.array([2, 1, 0]))
  np.testing.assert_allclose(
    np.exp(-model.unigram_nats(asked)), [unigram(1), unigram(2), unigram(0)]
  )
  np.testing.assert_allclose(
    np.exp(-model.bigram_nats(asked)),
    [(1 + unigram(1)) / (2 + 1), unigram(2), unigram(0) / (2 + 1)],
  )


def test_they_are_laws_of_the_token_after_every_context():
  rng = np.random.default_rng(0)
  pairs = Pairs(rng.integers(0, 6, 40), rng.integers(0, 5, 40))
  model = Bigram([Pairs(*(x[i : i + 2] for x in pairs)) for i in range(40)], 5)
  for context in range(6):
    every = Pairs(np.full(5, context), np.arange(5))
    for nats in (model.unigram_nats, model.bigram_nats):
      np.testing.assert_allclose(np.exp(-nats(every)).sum(), 1)


def chain(count, seed):
  """Documents of a Markov chain over 1, 2 and 3; and its nats, (unigram given
  the length of a document, bigram) a token, its end a third of the time."""
  law = np.array([[0.0, 0.6, 0.1], [0.1, 0.0, 0.6], [0.6, 0.1, 0.0]])
  rng = np.random.default_rng(seed)
  documents = []
  for _ in range(count):
    here, out = int(rng.integers(3)), []
    while here < 3:
      out.append(here + 1)
      here = int(rng.choice(4, p=[*law[here], 0.3]))
    documents.append(np.array(out))
  return documents


def test_they_come_to_the_entropy_of_a_markov_chain():
  """Ends are 0.3 / 1.3 of the tokens, the others equal; after a token 0.6, 0.1
  and 0.3, after an end a third each. 1,000 documents have an error of 0.008
  nats, and the starts of rows, which have no context, cost the bigram 0.007:
  within 0.05, a false-alarm rate of 1e-6."""
  train, held = (rows_of(chain(*a), 64) for a in ((4000, 0), (1000, 1)))
  got = token_baselines(train, eval_batches(held, 8), Alphabet())
  inside = -(0.6 * math.log(0.6) + 0.1 * math.log(0.1) + 0.3 * math.log(0.3))
  share = 0.3 / 1.3  # ends among tokens: documents have 1 / 0.3 tokens
  bigram = share * math.log(3) + (1 - share) * inside
  unigram = -share * math.log(share) - (1 - share) * math.log((1 - share) / 3)
  assert abs(got['bigram']['nats_per_token'] - bigram) < 0.05
  assert abs(got['unigram']['nats_per_token'] - unigram) < 0.05


def test_the_report_is_per_byte_and_per_token_of_the_rows_given():
  """Three documents in rows of 4, with 9 tokens and 8 bytes by hand; the error
  is over documents."""
  train = rows_of([[1, 1, 3, 2]] * 40)
  held = rows_of([[1, 1], [1], [2, 2, 1]], 4)
  got = token_baselines(train, eval_batches(held, 2), Alphabet())
  model = Bigram(training_pairs(train, np.arange(len(train)), 5), 5)
  pairs = row_pairs(batch_of(held), 5)
  for name, nats in (
    ('unigram', model.unigram_nats(pairs)),
    ('bigram', model.bigram_nats(pairs)),
  ):
    figures = got[name]
    np.testing.assert_allclose(figures['nats_per_token'], nats.sum() / 9)
    bits = nats.sum() / math.log(2) / (1 + 1 + 1 + 2 + 2 + 1)
    np.testing.assert_allclose(figures['bits_per_byte'], bits)
    totals = np.array([part.sum() for part in np.split(nats, [3, 5])])
    residuals = totals - nats.sum() / 9 * np.array([3, 2, 4])
    want = math.sqrt(1.5 * (residuals**2).sum()) / 9
    np.testing.assert_allclose(figures['nats_per_token_se'], want)
  assert got['fitted_on'].startswith('50 of 50 training rows')


def test_modelled_padding_is_no_token_to_divide_by():
  train = rows_of([[1, 2]] * 30 + [[3]] * 30, 6, 'document', True)
  got = token_baselines(train, eval_batches(train, 7), Alphabet())
  model = Bigram(training_pairs(train, np.arange(60), 5), 5)
  nats = model.unigram_nats(row_pairs(batch_of(train), 5)).sum()
  tokens = 30 * 3 + 30 * 2
  np.testing.assert_allclose(got['unigram']['nats_per_token'], nats / tokens)


def test_smoothing_is_fitted_to_text_that_is_not_counted():
  """300 independent tokens of 50: a bigram has nothing to gain and its counts
  much to lose, so that it is smoothed until it is the unigram."""
  rng = np.random.default_rng(5)
  pairs = lambda n: Pairs(rng.integers(0, 50, n), rng.integers(0, 50, n))
  model, held = Bigram([pairs(3) for _ in range(100)], 50), pairs(20_000)
  gap = model.bigram_nats(held).mean() - model.unigram_nats(held).mean()
  assert gap < 0.02 and model.bigram_strength >= 64
  model.bigram_strength = 1.0
  assert (model.bigram_nats(held) - model.unigram_nats(held)).mean() > 0.2


def test_a_large_split_is_counted_in_part(monkeypatch):
  monkeypatch.setattr('textdiffusion.evals.baselines.MAX_ROWS', 10)
  rows = rows_of([[1, 2, 3]] * 100)
  got = token_baselines(rows, eval_batches(rows, 50), Alphabet())
  assert got['fitted_on'].startswith('10 of 100 training rows')
  monkeypatch.setattr('textdiffusion.evals.baselines.MAX_TOKENS', 20)
  got = token_baselines(rows, eval_batches(rows, 50), Alphabet())
  assert got['fitted_on'].startswith('5 of 100 training rows')


def test_names_to_show_beside_a_bound():
  class Texts:
    def texts(self, split):
      return ['ab'] if split == 'train' else ['ab']

  tokens = {'unigram': {'bits_per_byte': 3.2}, 'bigram': {'bits_per_byte': 2.4}}
  got = reference_bits(tokens, Texts())
  assert list(got) == ['token unigram', 'token bigram', 'byte bigram']
  assert got['token unigram'] == 3.2 and got['token bigram'] == 2.4
