"""The judge's score is the exact likelihood; entropy of known rows."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.core.types import Denoiser, UserError, Vocab
from textdiffusion.evals.quality import judged, report, unigram_entropy
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.mdlm import MDLM

VOCAB = Vocab(5, mask_id=4, bos_id=3)
BIGRAM = jax.nn.log_softmax(jax.random.normal(jax.random.key(0), (5, 5)))
JUDGE = Denoiser(
  lambda key: {}, lambda params, x, t, c: params[x], None, None, False, 5
)


def test_entropy_of_known_rows():
  rows = np.array([[1, 1, 1, 1], [0, 1, 2, 3], [0, 0, 1, 1]])
  want = [0, math.log(4), math.log(2)]
  np.testing.assert_allclose(unigram_entropy(rows), want)


@pytest.mark.parametrize('batch', [2, 3, 16])
def test_a_bigram_judge_gives_its_log_probability(batch):
  ids = jnp.array([[0, 1, 2], [2, 2, 0], [1, 0, 1]])
  method = Autoregressive().build(VOCAB)
  nats = judged(method, JUDGE, BIGRAM, ids, batch)
  before = jnp.concatenate([jnp.full((3, 1), 3), ids[:, :-1]], 1)
  np.testing.assert_allclose(nats, -BIGRAM[before, ids].sum(1), rtol=1e-6)
  figures = report(nats, np.asarray(ids), 'a bigram', nats, np.asarray(ids))
  mean = -BIGRAM[before, ids].mean()
  for name in ('generative_perplexity', 'real_perplexity'):
    np.testing.assert_allclose(figures[name], math.exp(mean), 1e-6)
  assert figures['samples'] == 3 and figures['judge'] == 'a bigram'


def test_a_judge_with_a_bound_only_is_refused():
  with pytest.raises(UserError, match='must be autoregressive'):
    judged(MDLM().build(VOCAB), JUDGE, BIGRAM, jnp.zeros((2, 3), int))
