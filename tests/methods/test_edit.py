"""FlexMDM and Edit Flows: what their configs refuse, and their heads."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import student
from textdiffusion.config import Config, build
from textdiffusion.core.types import (
  Batch,
  Edits,
  Growth,
  UserError,
  Vocab,
)
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.tokenizers import Bytes
from textdiffusion.methods.edit_flows import EditFlows
from textdiffusion.methods.flexmdm import FlexMDM
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.processes.edit import EditPath, count_at, lengths, pack
from textdiffusion.schedules.noise import Geometric, Linear

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY = jax.random.key(0)
VOCAB = Vocab(12, mask_id=4, bos_id=10, eos_id=11, pad_id=9)
METHODS = {
  'flexmdm': FlexMDM(),
  'edit-flows': EditFlows(),
  'edit-flows-source': EditFlows(source_length=3),
}


@pytest.mark.parametrize('name', METHODS)
def test_a_row_must_show_its_padding(name):
  """Else the network would be told the length that it is to model."""
  config = Config(
    METHODS[name],
    DataConfig(rows='document', model_padding=True),
    TransformerConfig(num_layers=1, d_model=16, num_heads=2, time='adaln'),
  )
  method = build(config, Bytes()).method
  assert method.needs.whole_rows and method.evaluator.estimand == 'nelbo'
  for data in (DataConfig(rows='document'), DataConfig()):
    wrong = dataclasses.replace(config, data=data)
    with pytest.raises(UserError, match='data.model_padding=True'):
      build(wrong, Bytes())


def test_mistakes_are_named():
  with pytest.raises(UserError, match='method.insert=.*nothing at t=1'):
    FlexMDM(insert=Linear(eps=0.1)).build(VOCAB)
  with pytest.raises(UserError, match='method.unmask=.*no noise at t=0'):
    FlexMDM(unmask=Geometric()).build(VOCAB)
  with pytest.raises(UserError, match='method.schedule='):
    EditFlows(Geometric()).build(VOCAB)
  with pytest.raises(UserError, match=r'EditFlows\(source_length=-1\): must'):
    EditFlows(source_length=-1)
  # The unmasking clock starts when a token is there: it may leave signal.
  FlexMDM(unmask=Linear(eps=0.1)).build(VOCAB)


def test_heads():
  t = jnp.asarray([[0.25], [0.5]])
  raw = jax.random.normal(KEY, (2, 5, 13))
  method = FlexMDM().build(VOCAB)
  head = method.head(method.process, raw, KEY, t)
  assert isinstance(head, Growth) and head.logits.shape == (2, 5, 12)
  np.testing.assert_allclose(head.log_count, raw[..., -1] + jnp.log(t))
  raw = jax.random.normal(KEY, (2, 5, 27))
  method = EditFlows().build(VOCAB)
  head = method.head(method.process, raw, KEY, 0.25)
  assert isinstance(head, Edits)
  assert head.logits_insert.shape == head.logits_substitute.shape == (2, 5, 12)
  np.testing.assert_allclose(head.log_delete, raw[..., 1] + np.log(0.25), 1e-6)


@pytest.mark.parametrize('name', METHODS)
def test_the_loss_is_finite_at_both_ends_of_time(name):
  """Of any network, in value and gradient, at the first and last strata."""
  method = METHODS[name].build(VOCAB)
  ids = jnp.full((4, 6), VOCAB.pad_id).at[:3, :4].set(5)
  ones = jnp.ones_like(ids)
  u = jnp.asarray([1e-7, 1 - 1e-7, 0.5, 1e-7])
  batch = Batch(ids, ones, ones, jnp.arange(4), u)

  @jax.jit
  @jax.value_and_grad
  def loss(params):
    process = method.process
    head = lambda x, t: method.head(process, params[x], x, t)
    return method.objective(student(head, process), KEY, batch)[0].mean()

  value, grad = loss(jax.random.normal(KEY, (12, method.needs.width)))
  assert jnp.isfinite(value) and value < 50 and jnp.isfinite(grad).all()


def test_the_source_has_no_specials_and_its_length():
  p = EditPath(Linear(), 5, pad_id=3, mask_id=1, source_length=4)
  keys = jax.random.split(KEY, 4000)
  rows = jax.jit(jax.vmap(lambda k: p.source(k, 6)))(keys)
  np.testing.assert_array_equal(rows[:, 4:], 3)
  seen = np.bincount(np.asarray(rows[:, :4]).ravel(), minlength=5)
  assert seen[1] == seen[3] == 0
  # Binomial, 16,000 draws of 1/3: 6 standard deviations, false alarm 6e-9.
  assert np.abs(seen[[0, 2, 4]] - 16_000 / 3).max() < 6 * 60


def test_packing():
  z = jnp.asarray([[9, 5, 9, 4, 7, 9], [9] * 6, [1, 2, 3, 4, 5, 6]])
  x, place = pack(z, 9)
  np.testing.assert_array_equal(
    x, [[5, 4, 7, 9, 9, 9], [9] * 6, [1, 2, 3, 4, 5, 6]]
  )
  np.testing.assert_array_equal(place[0], [0, 0, 1, 1, 2, 3])
  np.testing.assert_array_equal(lengths(x, 9), [[3], [0], [6]])
  np.testing.assert_array_equal(count_at(place, z == 9)[0], [1, 1, 0, 1, 0, 0])
