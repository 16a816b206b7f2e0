"""Networks with the TPU kernel, interpreted, against the same ones without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import outputs
from textdiffusion.nn.network import BlockCausal, Causal, Dense, Full, View
from textdiffusion.nn.transformer import Transformer, TransformerConfig

pytestmark = pytest.mark.usefixtures('quick_compile')
STATES, LENGTH = 7, 128
IDS = jax.random.randint(jax.random.key(1), (1, LENGTH), 0, STATES)
# Two documents, with padding after them.
SEGMENTS = np.repeat([[1, 2, 0]], (50, 50, LENGTH - 100), axis=1)


def logits_of(attention, view):
  config = TransformerConfig(
    num_layers=1,
    d_model=128,
    num_heads=1,
    d_ff=16,
    attention=attention,
  )
  network = Transformer(config, STATES)
  params = network.init(jax.random.key(0))
  # A head that does not begin at zero, and attention that is not even.
  normal = jax.random.normal(jax.random.key(2), params['head']['kernel'].shape)
  params['head']['kernel'] = normal
  for name in ('q_norm', 'k_norm'):
    params['layers_0']['attention'][name]['scale'] *= 3
  params['layers_0']['attention']['out']['kernel'] *= 5
  run = lambda params: outputs(network, params, IDS, view=view)
  return run, params


@pytest.mark.parametrize(
  ('structure', 'packed'),
  [(Full(), True), (Causal(), False), (BlockCausal(16), True)],
  ids=['bidirectional-True', 'causal-False', 'block_causal-True'],
)
def test_a_network_with_splash_attention_is_the_network(structure, packed):
  segments = jnp.asarray(SEGMENTS) if packed else None
  view = View(segments=segments, structure=structure)
  plain, params = logits_of('xla', view)
  splash, _ = logits_of('splash', view)
  assert 'pallas_call' in str(jax.make_jaxpr(splash)(params))
  assert 'pallas_call' not in str(jax.make_jaxpr(plain)(params))
  is_text = SEGMENTS > 0 if packed else np.ones_like(SEGMENTS, bool)
  want = np.asarray(jax.jit(plain)(params))[is_text]
  have = np.asarray(jax.jit(splash)(params))[is_text]
  np.testing.assert_allclose(have, want, atol=2e-3)
  # Another mask changes the logits by far more than the tolerance.
  if structure != Full():
    other, _ = logits_of('xla', view._replace(structure=Full()))
    gap = np.asarray(jax.jit(other)(params))[is_text] - want
    assert np.abs(gap).max() > 0.2


def test_a_mask_of_a_call_is_kept_with_splash_attention():
  """The kernel takes no such mask: the network then runs without it."""
  mask = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
  splash, params = logits_of('splash', View(structure=Dense(mask)))
  causal, _ = logits_of('xla', View(structure=Causal()))
  have, want = jax.jit(splash)(params), jax.jit(causal)(params)
  np.testing.assert_allclose(have, want, atol=2e-3)
