"""The judge's score is the exact likelihood; entropy of known rows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import FunctionNetwork
from textdiffusion.core.types import (
  UserError,
  Vocab,
)
from textdiffusion.evals.quality import judged, judging, report, unigram_entropy
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.model import Trained

VOCAB = Vocab(5, mask_id=4, bos_id=3)
BIGRAM = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (5, 5)))
JUDGE = FunctionNetwork(lambda params, x, t, view: params[x])


def test_entropy_of_known_rows():
  rows = np.array([[1, 1, 1, 1], [0, 1, 2, 3], [0, 0, 1, 1]])
  want = [0, math.log(4), math.log(2)]
  np.testing.assert_allclose(unigram_entropy(rows), want)


@pytest.mark.parametrize('batch', [2, 3, 16])
def test_a_bigram_judge_gives_its_log_probability(batch):
  ids = jnp.array([[0, 1, 2], [2, 2, 0], [1, 0, 1]])
  method = Autoregressive().build(VOCAB)
  nats = judged(judging(method, JUDGE), Trained(BIGRAM), ids, batch)
  before = jnp.concatenate([jnp.full((3, 1), 3), ids[:, :-1]], 1)
  np.testing.assert_allclose(nats, -BIGRAM[before, ids].sum(1), rtol=1e-6)
  figures = report(nats, np.asarray(ids), 'a bigram', nats, np.asarray(ids))
  mean = -BIGRAM[before, ids].mean()
  for name in ('generative_perplexity', 'real_perplexity'):
    np.testing.assert_allclose(figures[name], math.exp(mean), 1e-6)
  assert figures['samples'] == 3 and figures['judge'] == 'a bigram'


def test_a_judge_with_a_bound_only_is_refused():
  with pytest.raises(UserError, match='must be autoregressive'):
    judging(MDLM().build(VOCAB), JUDGE)


def test_errors_and_real_text_by_hand():
  """Samples of 4 tokens with 4, 8, 12 and 16 nats: 1, 2, 3 and 4 a token have a
  deviation of sqrt(5 / 3), over sqrt(4). Real rows of 4 with 2, 6 and 7 nats:
  the first two of document 0, so totals 8 and 7 over 8 and 4 tokens."""
  ids = np.array([[1, 1, 1, 1], [0, 1, 2, 3], [0, 0, 1, 1], [2, 2, 3, 3]])
  documents = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [2, 2, 2, 2]])
  got = report(
    np.array([4.0, 8.0, 12.0, 16.0]),
    ids,
    'a bigram',
    np.array([2.0, 6.0, 7.0]),
    ids[1:],
    documents,
  )
  se = math.sqrt(5 / 3) / 2
  entropy = np.array([0, math.log(4), math.log(2), math.log(2)])
  real_se = math.sqrt(2 * ((8 - 10) ** 2 + (7 - 5) ** 2)) / 12
  real = entropy[1:]
  want = {
    'generative_nats_per_token': 2.5,
    'generative_nats_per_token_se': se,
    'generative_perplexity': math.exp(2.5),
    'generative_perplexity_se': math.exp(2.5) * se,
    'entropy': entropy.mean(),
    'entropy_se': entropy.std(ddof=1) / 2,
    'real_nats_per_token': 1.25,
    'real_nats_per_token_se': real_se,
    'real_perplexity': math.exp(1.25),
    'real_perplexity_se': math.exp(1.25) * real_se,
    'real_entropy': real.mean(),
    'real_entropy_se': real.std(ddof=1) / math.sqrt(3),
  }
  rest = {'judge': 'a bigram', 'samples': 4, 'real_rows': 3}
  assert set(got) == {*want, *rest}
  assert {name: got[name] for name in rest} == rest
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-6, err_msg=name)


def test_one_sample_has_no_error():
  one = np.array([[0, 1]])
  got = report(np.ones(1), one, 'a bigram', np.ones(1), one)
  assert got['generative_perplexity_se'] is None
  assert got['real_entropy_se'] is None and got['entropy'] == math.log(2)


def test_intervals_of_generative_perplexity_cover():
  """64 samples, 500 times: 95 percent of the intervals hold the mean of 5 nats
  a token. False-alarm rate of 91 to 98.4 percent below 1e-3."""
  rng, hits = np.random.default_rng(0), 0
  ids = np.zeros((64, 8), int)
  for nats in rng.gamma(100, 0.4, (500, 64)):
    got = report(nats, ids, '', nats[:1], ids[:1])
    error = got['generative_nats_per_token_se']
    hits += abs(got['generative_nats_per_token'] - 5) < 1.998 * error
  assert 0.91 < hits / 500 < 0.984
