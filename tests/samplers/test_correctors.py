"""Gibbs redraws and self-correction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import Law, assert_follows, chi_square
from tests.samplers.models import KEY, HeadModel, canvas_of, exact, run
from textdiffusion.core.types import Cavity
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers import (
  Ancestral,
  Chain,
  Filter,
  Gibbs,
  SelfCorrect,
)
from textdiffusion.samplers.correctors import Search
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
ROWS = 4_000
MASKED, UNIFORM = absorbing(4, 1, Linear()), uniform(3, Linear())


def chain_of(x):
  return Chain(x, jnp.zeros(x.shape, jnp.float32), jnp.zeros((), jnp.int32))


@pytest.mark.parametrize(
  'process, t', [(MASKED, 0.0), (UNIFORM, 0.0), (UNIFORM, 0.5)]
)
def test_gibbs_steps_come_to_the_marginal_at_their_time(process, t):
  """From one fixed state: 60 steps of one token, none of which moves time."""
  law = Law(process, 2)
  model, x = exact(law), jnp.full((ROWS, 2), int(law.tokens[2]))
  at, is_free = jnp.full(x.shape, t), jnp.ones(x.shape, bool)

  def body(i, carry):
    keys = jax.random.split(jax.random.fold_in(KEY, i), ROWS)
    return Gibbs().redraw(keys, model, carry, at, is_free)

  loop = jax.jit(lambda chain: jax.lax.fori_loop(0, 60, body, chain))
  chain = loop(chain_of(x))
  q = np.exp(process.marginal(law.ids, t).log_probs)  # [N, L, K]
  each = np.einsum('n,na,nb->ab', np.exp(law.log_p), q[:, 0], q[:, 1])
  probs = each[tuple(law.ids.T)]
  assert_follows(law, chain.x, probs)
  assert chain.calls == 60


def test_gibbs_keeps_masks_and_given_tokens():
  law = Law(MASKED, 3)
  x = jnp.asarray([[1, 0, 2]] * 64)
  is_free = jnp.asarray([[True, False, True]] * 64)
  keys, t = jax.random.split(KEY, 64), jnp.where(is_free, 0.5, 0.0)
  after = Gibbs(tokens=2).redraw(keys, exact(law), chain_of(x), t, is_free)
  np.testing.assert_array_equal(after.x[:, :2], x[:, :2])
  assert (after.x[:, 2] != 2).any() and (after.x[:, 2] != 1).all()


def test_gibbs_mends_few_steps():
  """Two steps draw tokens together; 20 redraws at the end undo that."""
  law, canvas = Law(MASKED, 2), canvas_of(ROWS, None, None)
  two = Ancestral(2, 'uniform')
  plain = run(exact(law), canvas, two)
  value, _, limit = chi_square(law, plain.ids, np.exp(law.log_p))
  assert value > limit
  mended = run(exact(law), canvas, Gibbs(two, 20))
  assert_follows(law, mended.ids, np.exp(law.log_p))
  assert mended.calls == 42 and plain.calls == 2


@pytest.mark.parametrize('process', [MASKED, UNIFORM])
def test_filtered_redraws(process):
  """Tempered redraws at t = 0 of one token: its law to the power 1 / 0.7."""
  law = Law(process, 1)
  sampler = Gibbs(Ancestral(2, 'uniform', Filter(0.7)), 3)
  samples = run(exact(law), canvas_of(ROWS, None), sampler)
  assert jnp.isfinite(samples.log_prob).all()
  tempered = np.exp(law.log_p / 0.7)
  assert_follows(law, samples.ids, tempered / tempered.sum())


def test_self_correction_ends_where_every_token_is_the_most_probable():
  law = Law(UNIFORM, 4, seed=3)
  canvas = canvas_of(200, None, None, 2, None)
  two = Ancestral(2, 'uniform')
  before = run(exact(law), canvas, two)
  after = run(exact(law), canvas, SelfCorrect(two, 50, 0.0, 0.0))
  np.testing.assert_array_equal(after.ids[:, 2], 2)
  assert (after.ids != before.ids).any()
  cavity = law.denoise(after.ids, 0.0).logits
  is_best = after.ids == cavity.argmax(-1)
  assert is_best[:, [0, 1, 3]].all()
  # Each call that changes a row changes one token of it, to a likelier one.
  assert after.calls < 52 and (after.steps <= after.calls).all()
  one = run(exact(law), canvas, SelfCorrect(two, 1, 0.0, 0.0))
  assert ((one.ids != before.ids).sum(-1) <= 1).all()


def test_self_correction_takes_no_token_that_is_less_probable():
  """Proposals are drawn, so most of these rows propose the second token."""
  logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
  head = lambda x, t: Cavity(jnp.broadcast_to(logits, (*x.shape, 3)))
  model, sampler = HeadModel(UNIFORM, head), SelfCorrect(temperature=1.0)
  best = jnp.zeros((64, 2), jnp.int32)
  keys = jax.random.split(KEY, 64)
  state = Search(*chain_of(best), best[:, 0] > 0, jnp.ones((64, 2), bool))
  after = sampler.search(keys, model, state)
  np.testing.assert_array_equal(after.x, best)
  assert after.is_settled.all()
  # From the least probable token most rows move, by one token each.
  moved = sampler.search(keys, model, state._replace(x=best + 2))
  assert ((moved.x != best + 2).sum(-1) <= 1).all()
  assert (moved.x != best + 2).any(-1).mean() > 0.5


def test_self_correction_around_gibbs():
  """Correctors wrap one another."""
  law, canvas = Law(UNIFORM, 3), canvas_of(16, None, 2, None)
  sampler = SelfCorrect(Gibbs(Ancestral(3), 2), 9, 0.0, 0.0)
  samples = run(exact(law), canvas, sampler, trace=True)
  assert samples.trace.ids.shape == (13, 16, 3)
  # 3 steps of 3 calls, then the search.
  assert 9 < samples.calls < 18 and (samples.ids[:, 1] == 2).all()
