"""A network over features: its two ends, and what it is told."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.core.binding import bind
from textdiffusion.core.types import X0, Condition, Features, typed
from textdiffusion.nn.layout import specs
from textdiffusion.nn.transformer import (
  TransformerConfig,
  build_denoiser,
  flops_per_token,
)

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY, SIZE = jax.random.key(0), 9
CONFIG = TransformerConfig(num_layers=1, d_model=16, num_heads=2, time='adaln')


def made(**kwargs):
  features = Features(5, **kwargs)
  denoiser = build_denoiser(CONFIG, SIZE, features=features)
  return denoiser, denoiser.init(KEY)


def test_features_in_features_out():
  denoiser, params = made(std=2.0)
  x = jax.random.normal(KEY, (3, 4, 5))
  out = denoiser.apply(params, x, 0.5, Condition())
  assert out.shape == (3, 4, 5) and out.dtype == jnp.float32
  assert params['embedding'].shape == (SIZE, 5)
  assert 1.5 < params['embedding'].std() < 2.5
  specs(params)  # every parameter has a rule
  params['layers_0']['adaln']['kernel'] += 0.1
  early, late = (denoiser.apply(params, x, t, Condition()) for t in (0.1, 0.9))
  assert (early != late).any()


def test_self_conditioning_doubles_what_is_shown():
  denoiser, params = made(self_condition=True)
  x = jax.random.normal(KEY, (3, 4, 10))
  out = denoiser.apply(params, x, 0.5, Condition())
  assert out.shape == (3, 4, 5)
  other = denoiser.apply(params, x.at[..., 5:].add(1), 0.5, Condition())
  assert (other != out).any()


@pytest.mark.parametrize('rounding', ['dot', 'distance'])
def test_rounding_undoes_embedding(rounding):
  """By distance always; by products where the bias makes up for lengths."""
  denoiser, params = made(rounding=rounding)
  model = bind(denoiser, params, typed(X0))
  assert model.embed is not None and model.round is not None
  ids = jnp.arange(SIZE)[None]
  if rounding == 'dot':
    squares = jnp.square(params['embedding']).sum(-1)
    params['rounding_bias'] = -0.5 * squares
    model = bind(denoiser, params, typed(X0))
  x = model.embed(ids)
  np.testing.assert_array_equal(model.round(x).argmax(-1), ids)
  if rounding == 'distance':
    away = x + 3.0
    gap = jnp.linalg.norm(away[..., None, :] - params['embedding'], axis=-1)
    np.testing.assert_allclose(model.round(away), -gap, rtol=1e-4, atol=1e-4)


def test_flops_count_both_ends():
  features = Features(5, self_condition=True)
  body = flops_per_token(CONFIG, 0, 8)
  ends = flops_per_token(CONFIG, 0, 8, features) - body
  assert ends == 2 * (10 * 16 + 16 * 16 + 16 * 16 + 16 * 5)
