"""The step: accumulation, skipping, schedules, what is decayed."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny, toy
from textdiffusion.core.types import UserError
from textdiffusion.objectives.base import Loss
from textdiffusion.training.optim import (
  OptimizerConfig,
  build_optimizer,
  is_decayed,
)
from textdiffusion.training.state import TrainConfig, init_state
from textdiffusion.training.step import make_train_step


def stepped(batch, config=tiny.CONFIG, state=None, steps=1):
  optimizer = build_optimizer(config.optimizer, config.steps)
  if state is None:
    state = init_state(tiny.METHOD, toy.NETWORK, optimizer, jax.random.key(0))
  step = jax.jit(make_train_step(tiny.METHOD, toy.NETWORK, optimizer, config))
  for _ in range(steps):
    state, metrics = step(state, batch)
  return state, metrics


@pytest.mark.parametrize('parts', [2, 4])
def test_accumulation_changes_rounding_only(parts):
  whole = stepped(tiny.batch(), steps=3)
  config = dataclasses.replace(tiny.CONFIG, accumulate=parts)
  split = stepped(tiny.batch(), config, steps=3)
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  close(whole[1]['loss'], split[1]['loss'])
  jax.tree.map(close, whole[0].params, split[0].params)


@pytest.mark.parametrize('parts', [1, 2])
def test_times_share_their_place_in_the_strata_if_told_to(parts):
  """Angles 2 pi n u of n rows: all equal, over accumulated parts too."""
  rows = len(tiny.batch()['rows'])

  def objective(models, key, batch):
    angle = jnp.broadcast_to(
      2 * jnp.pi * rows * batch.u[:, None], batch.ids.shape
    )
    return Loss(angle, {'cos': jnp.cos(angle), 'sin': jnp.sin(angle)})

  method = tiny.METHOD._replace(objective=objective)
  optimizer = build_optimizer(tiny.CONFIG.optimizer, 1)
  batch = tiny.batch()
  batch['segments'] = np.ones_like(batch['segments'])
  lengths = []
  for times in ('own_jitter', 'shared_jitter'):
    config = dataclasses.replace(tiny.CONFIG, times=times, accumulate=parts)
    step = make_train_step(method, toy.NETWORK, optimizer, config)
    state = init_state(tiny.METHOD, toy.NETWORK, optimizer, jax.random.key(0))
    _, metrics = jax.jit(step)(state, batch)
    lengths.append(float(jnp.hypot(metrics['cos'], metrics['sin'])))
  assert lengths[0] < 0.9 and lengths[1] > 1 - 1e-4


def test_padding_is_not_counted():
  one, two = tiny.batch(), tiny.batch()
  two['ids'] = np.where(two['segments'] > 0, two['ids'], 3)
  assert (one['ids'] != two['ids']).any()
  losses = [stepped(batch, steps=2)[1]['loss'] for batch in (one, two)]
  assert losses[0] == losses[1]


def test_loss_is_the_mean_over_counted_tokens():
  """At the start the network is uniform: log 11 times the mean weight of what
  is masked, whose expectation is 1. Over 400 steps of 8 rows the mean is
  within 5 standard errors: false alarm below 1e-6."""
  config = dataclasses.replace(
    tiny.CONFIG,
    steps=400,
    optimizer=OptimizerConfig(peak_lr=0.0, weight_decay=0.0),
  )
  optimizer = build_optimizer(config.optimizer, config.steps)
  state = init_state(tiny.METHOD, toy.NETWORK, optimizer, jax.random.key(0))
  step = jax.jit(make_train_step(tiny.METHOD, toy.NETWORK, optimizer, config))
  losses = []
  for _ in range(400):
    state, metrics = step(state, tiny.batch())
    losses.append(float(metrics['loss']))
  error = np.std(losses) / len(losses) ** 0.5
  assert abs(np.mean(losses) - math.log(11)) < 5 * error
  assert error < 0.1


def test_a_bad_step_moves_nothing_but_the_counters():
  state, _ = stepped(tiny.batch(), steps=2)
  broken = state._replace(
    params=jax.tree.map(
      lambda p: p.at[(0,) * p.ndim].set(jnp.nan), state.params
    )
  )
  after, metrics = stepped(tiny.batch(), state=broken)
  assert not math.isfinite(metrics['loss'])
  assert (after.step, after.skipped, after.bad_streak) == (3, 1, 1)
  chex.assert_trees_all_equal(
    (after.opt_state, after.ema), (state.opt_state, state.ema)
  )
  healed = after._replace(params=state.params)
  later, _ = stepped(tiny.batch(), state=healed)
  assert (later.step, later.skipped, later.bad_streak) == (4, 1, 0)


def test_ema_follows_the_parameters():
  state, _ = stepped(tiny.batch(), steps=1)
  optimizer = build_optimizer(tiny.CONFIG.optimizer, 6)
  fresh = init_state(tiny.METHOD, toy.NETWORK, optimizer, jax.random.key(0))
  decay = min(tiny.CONFIG.ema, 1 / 10)
  expected = jax.tree.map(
    lambda old, new: decay * old + (1 - decay) * new, fresh.ema, state.params
  )
  chex.assert_trees_all_close(state.ema, expected, rtol=1e-7, atol=1e-6)


def test_learning_rates():
  rate = lambda **kw: (
    build_optimizer(
      OptimizerConfig(peak_lr=1.0, warmup_steps=10, final_lr_ratio=0.1, **kw),
      110,
    ).learning_rate
  )
  for kind in ('cosine', 'wsd', 'constant'):
    np.testing.assert_allclose(rate(schedule=kind)(0), 0.1, rtol=1e-6)
    np.testing.assert_allclose(rate(schedule=kind)(10), 1.0, rtol=1e-6)
  np.testing.assert_allclose(rate()(60), 0.55, rtol=1e-6)
  np.testing.assert_allclose(rate()(110), 0.1, rtol=1e-6)
  wsd = rate(schedule='wsd', decay_steps=50)
  np.testing.assert_allclose([wsd(60), wsd(85)], [1.0, 0.55], rtol=1e-6)
  np.testing.assert_allclose(wsd(110), 0.1, rtol=1e-6)


def test_only_matrices_decay():
  params = tiny.NETWORK.init(jax.random.key(0))
  flags = is_decayed(params)
  assert not flags['embedding'] and flags['head']['kernel']
  assert not flags['layers_0']['attention_norm']['scale']


def test_clipping_bounds_the_update():
  """Without clipping a huge gradient changes Adam's moments; with it they are
  those of a gradient of norm 1."""
  config = dataclasses.replace(
    tiny.CONFIG, optimizer=OptimizerConfig(clip=1e-3, b1=0.0)
  )
  state, metrics = stepped(tiny.batch(), config)
  assert metrics['grad_norm'] > 1e-2
  mu = state.opt_state[1].mu
  norm = sum(float((x**2).sum()) for x in jax.tree.leaves(mu)) ** 0.5
  np.testing.assert_allclose(norm, 1e-3, rtol=1e-3)


@pytest.mark.parametrize(
  'settings, told',
  [
    ({'steps': 0}, 'train.steps=0'),
    ({'ema': 1.0}, 'train.ema=1.0'),
    ({'accumulate': 0}, 'train.accumulate=0'),
  ],
)
def test_bad_settings_name_the_value(settings, told):
  with pytest.raises(UserError, match=told):
    TrainConfig(**settings)
  with pytest.raises(UserError, match='peak_lr=-1'):
    OptimizerConfig(peak_lr=-1.0)


def test_the_parts_of_an_accumulated_batch_have_dropout_of_their_own():
  """A network of dropout alone: its output is drawn with the key it gets."""

  def apply(params, x, t, view):
    draw = jax.random.normal(view.dropout_key, (*x.shape, toy.STATES))
    return draw + 0 * params['head']['kernel'].sum()

  class Drawn:
    init = lambda self, facts: jnp.zeros(4)
    before_step = lambda self, state, facts, step: state
    after_step = lambda self, state, batch, terms: terms['drawn'][:4, 0]

  def objective(models, key, batch):
    drawn = models.student(batch.ids, 0.5).head.logits[..., 0]
    return Loss(drawn, {'drawn': drawn})

  method = tiny.METHOD._replace(objective=objective, state=Drawn())
  config = dataclasses.replace(tiny.CONFIG, accumulate=2)
  optimizer = build_optimizer(config.optimizer, 1)
  network = dataclasses.replace(toy.NETWORK, apply=apply)
  state = init_state(method, network, optimizer, jax.random.key(0))
  step = jax.jit(make_train_step(method, network, optimizer, config))
  drawn = step(state, tiny.batch())[0].method_state
  assert len(np.unique(drawn)) == 4
