"""The state of a method: refreshed on time, seen by the loss, saved."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.training import tiny, toy
from textdiffusion.core.types import Vocab
from textdiffusion.methods.d3pm import D3PM
from textdiffusion.objectives.base import Loss
from textdiffusion.processes.neighbors import nearest
from textdiffusion.schedules.betas import LinearBetas
from textdiffusion.training.checkpoint import Checkpointer
from textdiffusion.training.loop import train
from textdiffusion.training.mesh import (
  MeshConfig,
  make_mesh,
  replicated,
  state_shardings,
)
from textdiffusion.training.optim import build_optimizer
from textdiffusion.training.state import init_state
from textdiffusion.training.step import make_train_step

pytestmark = pytest.mark.usefixtures('quick_compile')

EVERY = 4


class Table:
  """The table and when it was taken, every EVERY steps."""

  def init(self, facts, step=0):
    return {'table': facts.table, 'step': jnp.asarray(step, jnp.int32)}

  def before_step(self, state, facts, step):
    fresh = lambda: self.init(facts, step)
    return jax.lax.cond(step % EVERY == 0, fresh, lambda: state)

  def after_step(self, state, batch, terms):
    return state


def with_step(models, key, batch):
  """MDLM's loss, and the step of the state as a term."""
  nats, terms = tiny.METHOD.objective(models, key, batch)
  step = models.student.facts.method_state['step']
  taken = jnp.broadcast_to(step, nats.shape).astype(jnp.float32)
  return Loss(nats, {**terms, 'taken': taken})


METHOD = tiny.METHOD._replace(state=Table(), objective=with_step)
NEAREST = D3PM(
  'nearest', LinearBetas(0.1, 0.5), 4, neighbors=3, update_every=EVERY
).build(Vocab(12, mask_id=11))


def stepped(method, steps, accumulate=1, batch=tiny.batch):
  config = dataclasses.replace(tiny.CONFIG, accumulate=accumulate)
  optimizer = build_optimizer(config.optimizer, config.steps)
  state = init_state(method, toy.NETWORK, optimizer, jax.random.key(0))
  step = jax.jit(make_train_step(method, toy.NETWORK, optimizer, config))
  states, metrics = [state], {}
  for i in range(steps):
    state, metrics = step(state, batch(i))
    states.append(state)
  return states, metrics


@pytest.mark.parametrize('accumulate', [1, 2])
def test_it_is_refreshed_on_time_and_seen_by_the_loss(accumulate):
  states, metrics = stepped(METHOD, 6, accumulate)
  assert metrics['taken'] == EVERY
  taken = [int(s.method_state['step']) for s in states]
  assert taken == [0, 0, 0, 0, 0, 4, 4]
  # As the embeddings were before that step.
  np.testing.assert_array_equal(
    states[-1].method_state['table'], states[4].params['embedding']
  )
  assert (states[4].params['embedding'] != states[0].params['embedding']).any()


def test_a_bad_step_does_not_move_it():
  broken = lambda models, key, batch: jax.tree.map(
    lambda x: x * jnp.nan, with_step(models, key, batch)
  )
  states, metrics = stepped(METHOD._replace(objective=broken), 5)
  assert metrics['skipped'] == 5
  assert states[-1].method_state['step'] == 0


def test_most_methods_remember_nothing():
  optimizer = build_optimizer(tiny.CONFIG.optimizer, 6)
  state = init_state(tiny.METHOD, toy.NETWORK, optimizer, jax.random.key(0))
  assert state.method_state == ()


def run(steps, workdir):
  config = dataclasses.replace(tiny.CONFIG, steps=steps)
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  return train(
    NEAREST, toy.NETWORK, tiny.Batches(), config, mesh, str(workdir), toy.RUN
  )


def test_a_resumed_run_remembers_to_the_bit(tmp_path):
  """The graph taken at step 4 is not that of the parameters at step 5, where
  the run is cut."""
  whole = run(6, tmp_path / 'whole')
  cut = dataclasses.replace(tiny.CONFIG, steps=6, checkpoint_every=5)
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])

  class Stops(tiny.Batches):
    def __next__(self):
      if self.index == 5:
        raise KeyboardInterrupt
      return super().__next__()

  args = cut, mesh, str(tmp_path / 'cut'), toy.RUN
  with pytest.raises(KeyboardInterrupt):
    train(NEAREST, toy.NETWORK, Stops(), *args)
  resumed = train(NEAREST, toy.NETWORK, tiny.Batches(), *args)
  chex.assert_trees_all_equal(resumed, whole)
  graph = whole.method_state
  now = nearest(whole.params['embedding'], 3, 11)
  assert graph.out.shape == now.shape == (12, 3)


def test_it_lies_whole_on_every_device():
  mesh = make_mesh(MeshConfig(), jax.devices()[:1])
  optimizer = build_optimizer(tiny.CONFIG.optimizer, 6)
  init = lambda key: init_state(NEAREST, toy.NETWORK, optimizer, key)
  shapes = jax.eval_shape(init, jax.random.key(0))
  shardings = state_shardings(mesh, shapes, shapes.params)
  leaves = jax.tree.leaves(shardings.method_state)
  assert len(leaves) == 3 and set(leaves) == {replicated(mesh)}


def test_checkpoints_of_methods_without_it_have_no_such_field(tmp_path):
  """So that those written before there was one are read."""
  optimizer = build_optimizer(tiny.CONFIG.optimizer, 6)
  state = init_state(tiny.METHOD, toy.NETWORK, optimizer, jax.random.key(0))
  saver = Checkpointer(tmp_path, 1)
  saver.save(state, {'next_index': 0}, toy.RUN)
  saver.wait()
  shapes = saver._manager.item_metadata(0)['state']
  assert 'method_state' not in dict(shapes)
  again, _ = saver.restore(jax.eval_shape(lambda: state))
  saver.close()
  chex.assert_trees_all_equal(again, state)
  assert again.method_state == ()
