"""What discrete flow matching wires, and what it refuses."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import student
from textdiffusion.core.types import (
  Batch,
  Posterior,
  UserError,
  Vocab,
)
from textdiffusion.methods.dfm import DFM
from textdiffusion.objectives.flow_matching import FlowMatching, flow_bound
from textdiffusion.objectives.nelbo import masked_bound, rank_one_bound

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY = jax.random.key(0)
VOCAB = Vocab(6, mask_id=2)


def test_losses_and_evaluators():
  build = lambda *args: DFM(*args).build(VOCAB)
  mask, uniform = build(), build('uniform')
  assert isinstance(mask.objective, FlowMatching)
  assert mask.objective.estimand == uniform.objective.estimand == 'surrogate'
  assert mask.evaluator.bound is masked_bound
  assert uniform.evaluator.bound is rank_one_bound
  kl = DFM('uniform', loss='generalised_kl')
  assert kl.build(VOCAB).objective.bound is flow_bound
  assert kl.build(VOCAB).objective.estimand == 'nelbo'
  coupled = DFM('uniform', loss='generalised_kl', prompt_rate=0.5)
  assert coupled.build(VOCAB).objective.estimand == 'surrogate'


@pytest.mark.parametrize('source', ['mask', 'uniform'])
def test_the_head_knows_what_is_possible(source):
  method = DFM(source).build(VOCAB)
  head = functools.partial(method.head, method.process)
  x = jnp.array([2, 4] if source == 'mask' else [1, 4])
  raw = jax.random.normal(KEY, (2, 6))
  at = lambda t: jax.nn.softmax(head(raw, x, t).logits)
  assert isinstance(head(raw, x, 0.5), Posterior)
  assert (at(0.5)[:, 2] == 0).all()  # the mask is no token
  if source == 'mask':
    np.testing.assert_array_equal(at(0.5)[1], np.eye(6)[4])
  else:
    assert (np.delete(at(0.5), 2, 1) > 0).all()
    np.testing.assert_array_equal(at(0.0), np.eye(6)[np.asarray(x)])


@pytest.mark.parametrize('loss', ['cross_entropy', 'generalised_kl'])
@pytest.mark.parametrize('source', ['mask', 'uniform'])
def test_padding_breaks_no_loss_and_no_gradient(source, loss):
  """The mask in padding has come from nothing."""
  method = DFM(source, loss=loss).build(VOCAB)
  ids = jnp.full((2, 3), VOCAB.mask_id)
  zeros = jnp.zeros_like(ids)
  batch = Batch(ids, zeros, zeros, jnp.arange(2), jnp.array([0.1, 0.9]))

  def nats(params, objective):
    process = method.process
    head = lambda x, t: method.head(process, params[x], x, t)
    return objective(student(head, process), KEY, batch)[0].sum()

  params = jax.random.normal(KEY, (6, 6))
  value, grad = jax.jit(
    jax.value_and_grad(lambda params: nats(params, method.objective))
  )(params)
  assert jnp.isfinite(value) and jnp.isfinite(grad).all()


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'source': 'noise'}, r"DFM\(source='noise'\): must be one of mask, uni"),
    ({'loss': 'mse'}, r"DFM\(loss='mse'\): must be one of cross_entropy"),
    ({'prompt_rate': 2.0}, r'DFM\(prompt_rate=2.0\): must be in \[0, 1\]'),
  ],
)
def test_bad_settings_name_the_value(settings, message):
  with pytest.raises(UserError, match=message):
    DFM(**settings)


def test_only_a_mask_source_needs_a_mask():
  with pytest.raises(UserError, match="add 'mask' to data.tokenizer"):
    DFM().build(Vocab(12))
  assert DFM('uniform').build(Vocab(12)).process.mask_id is None
