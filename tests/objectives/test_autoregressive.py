"""The left-to-right likelihood is exact, and begins at every document."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import student
from tests.oracle import PROCESSES, Law
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import (
  Batch,
  Causal,
  Cavity,
)
from textdiffusion.objectives.autoregressive import Autoregressive

BOS = 7
KEY = jax.random.key(0)


def causal(law, shifted):
  """[B, L] ids shifted right -> Causal head of the law, [B, L, K]."""
  fits = law.ids[None, :, :-1] == shifted[:, None, 1:]  # [B, N, L - 1]
  fits = jnp.cumprod(
    jnp.pad(fits, ((0, 0), (0, 0), (1, 0)), constant_values=1), -1
  )
  weights = fits * jnp.exp(law.log_p)[None, :, None]
  is_v = one_hot(law.ids, law.process.num_states)
  return Causal(jnp.log(jnp.einsum('bnl,nlk->blk', weights, is_v)))


def batch_of(ids, positions):
  ones = jnp.ones_like(ids)
  return Batch(ids, ones, positions, jnp.arange(len(ids)), ones[:, 0] * 0.5)


@pytest.mark.usefixtures('x64')
def test_the_chain_rule_gives_minus_log_p():
  law = Law(PROCESSES['uniform'](3), 3)
  seen = []

  def denoise(x, t):
    seen.append(x)
    return causal(law, x)

  batch = batch_of(law.ids, jnp.broadcast_to(jnp.arange(3), law.ids.shape))
  nats, terms = Autoregressive(BOS)(student(denoise), KEY, batch)
  assert nats.shape == law.ids.shape and set(terms) == {'nll'}
  np.testing.assert_allclose(nats.sum(-1), -law.log_p, rtol=1e-12)
  entropy = (jnp.exp(law.log_p) * nats.sum(-1)).sum()
  np.testing.assert_allclose(entropy, law.entropy, rtol=1e-12)
  np.testing.assert_array_equal(seen[0][:, 0], BOS)


def test_a_document_begins_with_bos_not_with_its_neighbour():
  seen = []

  def denoise(x, t):
    seen.append(x)
    return Causal(jnp.zeros((*x.shape, 9)))

  ids = jnp.array([[1, 2, 3, 4, 5]])
  batch = batch_of(ids, jnp.array([[0, 1, 2, 0, 1]]))
  Autoregressive(BOS)(student(denoise), KEY, batch)
  np.testing.assert_array_equal(seen[0], [[BOS, 1, 2, BOS, 4]])


def test_a_foreign_head_is_refused():
  model = student(lambda x, t: Cavity(jnp.zeros((*x.shape, 9))))
  ids = jnp.zeros((1, 3), int)
  with pytest.raises(TypeError, match='Causal head, not Cavity'):
    Autoregressive(BOS)(model, KEY, batch_of(ids, ids))
