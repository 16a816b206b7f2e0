"""Each method trains a step and samples, end to end, under jit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.core.types import (
  Batch,
  Causal,
  Cavity,
  Model,
  UserError,
  Vocab,
  bind,
)
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.nn.transformer import TransformerConfig, build_denoiser
from textdiffusion.sampling.generate import Canvas, SampleConfig, generate
from textdiffusion.schedules.betas import (
  CosineBetas,
  LinearBetas,
)
from textdiffusion.schedules.noise import Cosine, Geometric

KEY, LENGTH = jax.random.key(0), 8
VOCAB = Vocab(12, mask_id=4, bos_id=10, eos_id=11)
CONFIGS = {
  'mdlm': MDLM(),
  'mdlm-cosine': MDLM(Cosine()),
  'mdlm-steps': MDLM(num_steps=4),
  'mdlm-geometric': MDLM(Geometric()),
  'd3pm': D3PM(num_steps=8),
  'd3pm-uniform': D3PM('uniform', CosineBetas(), 8, hybrid_head='output'),
  'd3pm-gaussian': D3PM('gaussian', LinearBetas(0.8, 1.0), 8),
  'd3pm-gaussian-dense': D3PM('gaussian', num_steps=8, kernel='dense'),
  'd3pm-band': D3PM('band', num_steps=8, mask_last=True, all_steps=True),
  'd3pm-nearest': D3PM('nearest', num_steps=8, neighbors=3, mask_last=True),
  'autoregressive': Autoregressive(),
}


def model_of(method, params):
  """A network that looks at one token at a time."""
  head = lambda x, t: method.head(params[x], x, t)
  return Model(
    head,
    lambda rows, length: jnp.zeros(rows),
    lambda ids, cache, start: (head(ids, 0.0), cache),
    table=params,
  )


@pytest.mark.parametrize('name', CONFIGS)
def test_a_method_trains_and_samples(name):
  method = CONFIGS[name].build(VOCAB)
  params = jax.random.normal(KEY, (method.num_states, method.num_states))
  ids = jax.random.randint(KEY, (4, LENGTH), 0, 12)
  ids = jnp.where(ids == VOCAB.mask_id, 0, ids)
  positions = jnp.tile(jnp.arange(LENGTH), (4, 1))
  u = (jnp.arange(4) + 0.9) / 4
  batch = Batch(ids, jnp.ones_like(ids), positions, jnp.arange(4), u)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    nats, terms = method.objective(model_of(method, params), KEY, batch)
    assert {x.shape for x in [nats, *terms.values()]} == {ids.shape}
    return nats.mean()

  value, grads = loss(params)
  assert jnp.isfinite(value) and jnp.isfinite(grads).all()

  canvas = Canvas(ids, jnp.arange(LENGTH)[None] < jnp.ones((4, 1)) * 3)
  samples = jax.jit(
    lambda key: generate(
      method.sampler,
      model_of(method, params),
      key,
      canvas,
      SampleConfig(steps=4, temperature=0.7, top_p=0.9),
      trace=True,
    )
  )(KEY)
  np.testing.assert_array_equal(samples.ids[:, :3], ids[:, :3])
  assert jnp.isfinite(samples.log_prob).all()
  if method.process is not None:
    assert (samples.ids != VOCAB.mask_id).all()


def test_what_may_be_reported_as_a_bound():
  told = {k: c.build(VOCAB).evaluator.estimand for k, c in CONFIGS.items()}
  assert set(told.values()) == {'nelbo'}


def test_padding_does_not_break_a_loss():
  """Whatever stands in padding, the mask too, its loss is a number."""
  method = MDLM().build(VOCAB)
  ids = jnp.full((2, 3), VOCAB.mask_id)
  zeros = jnp.zeros_like(ids)
  batch = Batch(ids, zeros, zeros, jnp.arange(2), jnp.array([0.1, 0.9]))
  params = jnp.ones((12, 12))
  nats, _ = method.objective(model_of(method, params), KEY, batch)
  assert jnp.isfinite(nats).all()


def test_heads():
  kind = lambda config: type(config.build(VOCAB).head(KEY, KEY, 0.5))
  assert kind(MDLM()) is Cavity and kind(Autoregressive()) is Causal
  assert not MDLM().build(VOCAB).causal and Autoregressive().build(VOCAB).causal


@pytest.mark.parametrize(
  'config, needed', [(MDLM(), "'mask'"), (Autoregressive(), "'bos'")]
)
def test_a_missing_special_token_is_named(config, needed):
  with pytest.raises(UserError, match=f'add {needed} to data.tokenizer'):
    config.build(Vocab(12))


def test_a_method_brings_parameters_of_its_own():
  """They reach the model beside the network's, and nothing else changes."""
  config = TransformerConfig(num_layers=1, d_model=16, num_heads=2)
  network = build_denoiser(config, 12)
  method = MDLM().build(VOCAB)
  assert method.extend(network) is network
  method = method._replace(init_params=lambda key: {'power': jnp.arange(3.0)})
  denoiser = method.extend(network)
  params = denoiser.init(KEY)
  assert set(params) == {'network', 'method'}
  ids = jnp.zeros((2, 4), int)
  model = bind(denoiser, params, method.head)
  plain = bind(network, params['network'], method.head)
  np.testing.assert_array_equal(
    model.denoise(ids, 0.5).logits, plain.denoise(ids, 0.5).logits
  )
  np.testing.assert_array_equal(model.method_params['power'], [0, 1, 2])
  np.testing.assert_array_equal(model.table, plain.table)
  assert plain.method_params == ()
