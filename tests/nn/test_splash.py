"""Networks with the TPU kernel, interpreted, against the same ones without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.core.types import Condition
from textdiffusion.nn.transformer import TransformerConfig, build_denoiser

pytestmark = pytest.mark.usefixtures('quick_compile')
STATES, LENGTH = 7, 128
IDS = jax.random.randint(jax.random.key(1), (1, LENGTH), 0, STATES)
# Two documents, with padding after them.
SEGMENTS = np.repeat([[1, 2, 0]], (50, 50, LENGTH - 100), axis=1)


def logits_of(attention, attend, condition):
  config = TransformerConfig(
    num_layers=1,
    d_model=128,
    num_heads=1,
    d_ff=16,
    attend=attend,
    block_size=16 if attend == 'block_causal' else 0,
    attention=attention,
  )
  denoiser = build_denoiser(config, STATES)
  params = denoiser.init(jax.random.key(0))
  # A head that does not begin at zero, and attention that is not even.
  normal = jax.random.normal(jax.random.key(2), params['head']['kernel'].shape)
  params['head']['kernel'] = normal
  for name in ('q_norm', 'k_norm'):
    params['layers_0']['attention'][name]['scale'] *= 3
  params['layers_0']['attention']['out']['kernel'] *= 5
  run = lambda params: denoiser.apply(params, IDS, 0.5, condition)
  return run, params


@pytest.mark.parametrize(
  ('attend', 'packed'),
  [('bidirectional', True), ('causal', False), ('block_causal', True)],
)
def test_a_network_with_splash_attention_is_the_network(attend, packed):
  segments = jnp.asarray(SEGMENTS) if packed else None
  condition = Condition(segments=segments)
  plain, params = logits_of('xla', attend, condition)
  splash, _ = logits_of('splash', attend, condition)
  assert 'pallas_call' in str(jax.make_jaxpr(splash)(params))
  assert 'pallas_call' not in str(jax.make_jaxpr(plain)(params))
  is_text = SEGMENTS > 0 if packed else np.ones_like(SEGMENTS, bool)
  want = np.asarray(jax.jit(plain)(params))[is_text]
  have = np.asarray(jax.jit(splash)(params))[is_text]
  np.testing.assert_allclose(have, want, atol=2e-3)
  # Another mask changes the logits by far more than the tolerance.
  if attend != 'bidirectional':
    other, _ = logits_of('xla', 'bidirectional', condition)
    gap = np.asarray(jax.jit(other)(params))[is_text] - want
    assert np.abs(gap).max() > 0.2


def test_a_mask_of_a_call_is_kept_with_splash_attention():
  """The kernel takes no such mask: the network then runs without it."""
  mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
  splash, params = logits_of('splash', 'bidirectional', Condition(mask=mask))
  causal, _ = logits_of('xla', 'causal', Condition())
  have, want = jax.jit(splash)(params), jax.jit(causal)(params)
  np.testing.assert_allclose(have, want, atol=2e-3)
