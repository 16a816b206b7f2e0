"""A network over features: its two ends, and what it is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import outputs
from textdiffusion.core.types import (
  Features,
)
from textdiffusion.nn.layout import specs
from textdiffusion.nn.transformer import (
  Transformer,
  TransformerConfig,
  flops_per_token,
)

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY, SIZE = jax.random.key(0), 9
CONFIG = TransformerConfig(num_layers=1, d_model=16, num_heads=2, time='adaln')


def made(**kwargs):
  features = Features(5, **kwargs)
  network = Transformer(CONFIG, SIZE, features=features)
  return network, network.init(KEY)


def test_features_in_features_out():
  network, params = made(std=2.0)
  x = jax.random.normal(KEY, (3, 4, 5))
  out = outputs(network, params, x, 0.5)
  assert out.shape == (3, 4, 5) and out.dtype == jnp.float32
  assert params['embedding'].shape == (SIZE, 5)
  assert 1.5 < params['embedding'].std() < 2.5
  specs(params)  # every parameter has a rule
  params['layers_0']['adaln']['kernel'] += 0.1
  early, late = (outputs(network, params, x, t) for t in (0.1, 0.9))
  assert (early != late).any()


def test_self_conditioning_doubles_what_is_shown():
  network, params = made(self_condition=True)
  x = jax.random.normal(KEY, (3, 4, 10))
  out = outputs(network, params, x, 0.5)
  assert out.shape == (3, 4, 5)
  other = outputs(network, params, x.at[..., 5:].add(1), 0.5)
  assert (other != out).any()


@pytest.mark.parametrize('rounding', ['dot', 'distance'])
def test_rounding_undoes_embedding(rounding):
  """By distance always; by products where the bias makes up for lengths."""
  network, params = made(rounding=rounding)
  embedder = network.embedder(params)
  ids = jnp.arange(SIZE)[None]
  if rounding == 'dot':
    squares = jnp.square(params['embedding']).sum(-1)
    params['rounding_bias'] = -0.5 * squares
    embedder = network.embedder(params)
  x = embedder.embed(ids)
  np.testing.assert_array_equal(embedder.logits(x).argmax(-1), ids)
  if rounding == 'distance':
    away = x + 3.0
    table = params['embedding'][None, None]
    gap = jnp.linalg.norm(away[..., None, :] - table, axis=-1)
    logits = embedder.logits(away)
    np.testing.assert_allclose(logits, -gap, rtol=1e-4, atol=1e-4)


def test_flops_count_both_ends():
  features = Features(5, self_condition=True)
  body = flops_per_token(CONFIG, 0, 8)
  ends = flops_per_token(CONFIG, 0, 8, features) - body
  assert ends == 2 * (10 * 16 + 16 * 16 + 16 * 16 + 16 * 5)
