"""Duo within the train loop, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.states import random_state
from textdiffusion.core.types import UserError, Vocab
from textdiffusion.methods.duo import Duo
from textdiffusion.methods.method import build_network
from textdiffusion.nn.transformer import TransformerConfig
from textdiffusion.objectives.nelbo import Nelbo
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.state import TrainConfig
from textdiffusion.training.step import make_train_step

pytestmark = pytest.mark.usefixtures('quick_compile')
VOCAB = Vocab(12, mask_id=4)


def first_steps(method, accumulate=1, num=3):
  """Metrics of the first steps of a tiny network."""
  model = TransformerConfig(num_layers=1, d_model=16, num_heads=2, time='adaln')
  network = build_network(method, model)
  config = TrainConfig(steps=4, accumulate=accumulate)
  optimizer = build_optimizer(config.optimizer, 4)
  state = random_state(method, network, optimizer)
  ids = np.random.default_rng(0).integers(5, 12, (8, 6), np.int32)
  batch = {
    'ids': ids,
    'segments': np.ones_like(ids),
    'positions': np.tile(np.arange(6, dtype=np.int32), (8, 1)),
    'rows': np.arange(8, dtype=np.int32),
  }
  step = jax.jit(make_train_step(method, network, optimizer, config))
  seen = []
  for _ in range(num):
    state, metrics = step(state, batch)
    seen.append(metrics)
  return seen


def test_the_curriculum_ends_while_training():
  """Two steps with soft inputs and then the bound, whatever is accumulated."""
  method = Duo(curriculum_steps=2).build(VOCAB)
  whole, parts = first_steps(method), first_steps(method, accumulate=2)
  assert [m['curriculum'] > 0 for m in whole] == [True, True, False]
  assert [m['diffusion'] > 0 for m in whole] == [False, False, True]
  for one, other in zip(whole, parts, strict=True):
    np.testing.assert_allclose(one['loss'], other['loss'], rtol=1e-5)
    np.testing.assert_allclose(
      one['curriculum'], other['curriculum'], rtol=1e-5
    )


def test_what_is_trained_and_what_is_reported():
  method = Duo().build(VOCAB)
  assert method.objective.estimand == 'surrogate'
  assert isinstance(method.evaluator, Nelbo)
  assert method.evaluator.estimand == 'nelbo'
  assert isinstance(Duo(curriculum_steps=0).build(VOCAB).objective, Nelbo)
  # Eleven tokens and the mask: the window is that of eleven.
  schedule = method.objective.duality.schedule
  ends = jnp.exp(schedule(jnp.array([0.0, 1.0])).log_alpha[:, 0])
  np.testing.assert_allclose(ends, [0.95, 0.05], rtol=1e-4)


@pytest.mark.parametrize(
  'make, told',
  [
    (lambda: Duo(curriculum_steps=-1), 'curriculum_steps=-1'),
    (lambda: Duo(log10_temperature=(-1.0,)), 'log10_temperature'),
    (lambda: Duo(log10_temperature=(-1.0, -2.0)), 'method.largest=16'),
    (lambda: Duo(largest=-1), 'largest=-1'),
    (lambda: Duo(gamma_min=0.0, gamma_max=-1.0).build(VOCAB), 'gamma_min=0.0'),
    (lambda: Duo().build(Vocab(2, mask_id=1)), 'vocab_size=1'),
  ],
)
def test_bad_settings_are_named(make, told):
  with pytest.raises(UserError, match=told):
    make()
