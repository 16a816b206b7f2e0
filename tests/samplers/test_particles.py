"""Particles: the laws that rewards give, by chi-square."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import PROCESSES, Law, assert_follows
from tests.samplers.models import HeadModel, canvas_of, exact, run
from textdiffusion.core.types import UserError
from textdiffusion.guidance import Guided
from textdiffusion.samplers import (
  Ancestral,
  Blocks,
  FirstHitting,
  Ordered,
  Particles,
  Remask,
)
from textdiffusion.samplers.particles import systematic

pytestmark = pytest.mark.usefixtures('quick_compile')
LENGTH, NUM, GROUPS = 3, 32, 400


def law_of(name):
  return Law(PROCESSES[name](2), LENGTH)


def rewarded(law, log_reward):
  """[N] p r / Z."""
  with np.errstate(under='ignore'):
    p = np.exp(np.asarray(law.log_p) + np.asarray(log_reward(law.ids)))
  return p / p.sum()


def even(ids):
  return jnp.zeros(len(ids))


def odd_count(law):
  """Forbids rows in which the first token occurs an even number of times."""
  first = int(law.tokens[0])
  return lambda ids: jnp.where((ids == first).sum(-1) % 2 == 1, 0.0, -jnp.inf)


def sloped(law):
  """Favours the first token, e^0.8 each, and its being at the left."""
  first = int(law.tokens[0])
  slope = jnp.asarray([[1.2, 0.8, 0.4]])
  return lambda ids: ((ids == first) * slope).sum(-1)


SAMPLERS = {
  'absorbing': [
    Ancestral(steps=24),
    FirstHitting(),
    Ordered('random'),
    Remask(steps=12, eta=0.05),
  ],
  'uniform': [Ancestral(steps=24)],
}
CASES = [(name, s) for name, all_of in SAMPLERS.items() for s in all_of]


@pytest.mark.parametrize('reward', [odd_count, sloped])
@pytest.mark.parametrize('name, sampler', CASES)
def test_one_of_each_group_follows_the_rewarded_law(name, sampler, reward):
  """The bias falls as 1 / NUM; at 400 draws it is below what chi-square sees.
  False alarm 1e-5 a case."""
  law = law_of(name)
  particles = Particles(reward(law), sampler, NUM)
  canvas = canvas_of(NUM * GROUPS, *[None] * LENGTH)
  samples = run(exact(law), canvas, particles)
  assert_follows(law, samples.ids[::NUM], rewarded(law, reward(law)))


@pytest.mark.parametrize('name, sampler', CASES)
def test_an_even_reward_changes_nothing(name, sampler):
  """All rows stay independent draws."""
  law = law_of(name)
  canvas = canvas_of(4_000, *[None] * LENGTH)
  particles = Particles(even, sampler, 8)
  samples = run(exact(law), canvas, particles)
  assert_follows(law, samples.ids, np.exp(law.log_p))


def test_without_predictions_it_is_a_choice_among_samples():
  """One of 32 independent samples by its reward; as many calls as without."""
  law = law_of('absorbing')
  canvas = canvas_of(NUM * GROUPS, *[None] * LENGTH)
  alone = run(exact(law), canvas, FirstHitting())
  particles = Particles(sloped(law), FirstHitting(), NUM, predictions=0)
  samples = run(exact(law), canvas, particles)
  assert_follows(law, samples.ids[::NUM], rewarded(law, sloped(law)))
  assert samples.calls == alone.calls == LENGTH


def test_predictions_cost_a_call_a_step_but_the_last():
  law = law_of('absorbing')
  canvas = canvas_of(NUM, *[None] * LENGTH)
  samples = run(exact(law), canvas, Particles(even, FirstHitting(), NUM))
  assert samples.calls == 2 * LENGTH - 1


def test_predictions_are_made_at_the_time_of_the_state():
  law, seen = law_of('uniform'), []
  inner = exact(law)

  def head(x, t):
    jax.debug.callback(lambda t: seen.append(float(np.max(t))), t, ordered=True)
    return inner.head(x, t)

  sampler = Ancestral(steps=2, grid='uniform')
  model = HeadModel(law.process, head)
  canvas = canvas_of(4, *[None] * LENGTH)
  run(model, canvas, Particles(even, sampler, 4))
  jax.effects_barrier()
  assert seen == [1.0, 0.5, 0.5]  # a step, its prediction, the last step


def test_given_tokens_stay():
  law = law_of('absorbing')
  first = int(law.tokens[0])
  canvas = canvas_of(NUM * GROUPS, None, first, None)
  particles = Particles(odd_count(law), FirstHitting(), NUM)
  samples = run(exact(law), canvas, particles)
  p = np.where(np.asarray(law.ids)[:, 1] == first, 1, 0)
  p = p * rewarded(law, odd_count(law))
  assert_follows(law, samples.ids[::NUM], p / p.sum())


def test_systematic_resampling():
  """Each index occurs floor or ceil of n w times, n w on average (5 standard
  errors of 4,000 draws), at any place of the result with equal chance."""
  weights = jnp.asarray([0.05, 0.4, 0.3, 0.25])
  keys = jax.random.split(jax.random.key(0), 4_000)
  index = np.asarray(jax.vmap(lambda key: systematic(key, weights))(keys))
  counts = (index[..., None] == np.arange(4)).sum(1)
  want = 4 * np.asarray(weights)
  assert (counts >= np.floor(want)).all() and (counts <= np.ceil(want)).all()
  error = np.sqrt(counts.var(0) / len(keys)) + 1e-9
  assert (np.abs(counts.mean(0) - want) < 5 * error + 1e-6).all()
  at_first = (index[:, 0, None] == np.arange(4)).mean(0)
  p = np.asarray(weights)
  limit = 5 * np.sqrt(p * (1 - p) / len(keys))
  assert (np.abs(at_first - p) < limit).all()


def test_rows_that_make_no_groups():
  law = law_of('absorbing')
  with pytest.raises(UserError, match='sampler.groups'):
    run(exact(law), canvas_of(5, None, None, None), Particles(even, num=4))


def test_groups_have_keys_of_their_own():
  canvas = canvas_of(2, 1, None)
  grouped = Particles(even, num=3).groups(canvas)
  assert grouped.rows.tolist() == [0, 1, 2, 3, 4, 5]
  assert grouped.ids.shape == (6, 2)
  moved = Particles(even, num=3).groups(canvas._replace(rows=jnp.array([4, 7])))
  assert moved.rows.tolist() == [12, 13, 14, 21, 22, 23]


def test_forbidden_groups_end():
  """Where no particle is allowed the group stays, and is no number."""
  law = law_of('absorbing')
  none = lambda ids: jnp.full(len(ids), -jnp.inf)
  canvas = canvas_of(8, *[None] * LENGTH)
  samples = run(exact(law), canvas, Particles(none, FirstHitting(), 4))
  assert np.isin(np.asarray(samples.ids), law.tokens).all()


def test_a_group_that_ended_waits_in_its_order():
  """A sample is the same beside a group that takes longer."""
  law = law_of('absorbing')
  first = int(law.tokens[0])
  particles = Particles(sloped(law), FirstHitting(), 8)
  short = canvas_of(8, None, first, first)
  both = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b]),
    short._replace(rows=jnp.arange(8)),
    canvas_of(8, None, None, None)._replace(rows=jnp.arange(8, 16)),
  )
  alone = run(exact(law), short._replace(rows=jnp.arange(8)), particles)
  beside = run(exact(law), both, particles)
  np.testing.assert_array_equal(alone.ids, beside.ids[:8])


def test_rows_of_a_group_are_alike():
  law = law_of('absorbing')
  canvas = canvas_of(4, None, None, 0)
  mixed = canvas._replace(ids=canvas.ids.at[0, 2].set(1))
  particles = Particles(even, FirstHitting(), 4)
  with pytest.raises(UserError, match='different given tokens'):
    particles.init(jax.random.split(jax.random.key(0), 4), exact(law), mixed)


def test_samplers_that_cannot_be_steered():
  law = law_of('absorbing')
  canvas = canvas_of(4, None, None, None)
  with pytest.raises(UserError, match='cannot steer Blocks'):
    run(exact(law), canvas, Particles(even, Blocks(size=3), 4))


def test_guided_steps_have_no_predictions():
  model = exact(law_of('uniform'))
  guided, canvas = Guided(model, model, 2.0), canvas_of(4, None, None, None)
  with pytest.raises(UserError, match='use predictions=0'):
    run(guided, canvas, Particles(even, Ancestral(steps=2), 4))
  alone = Particles(even, Ancestral(steps=2), 4, predictions=0)
  assert run(guided, canvas, alone).ids.shape == (4, 3)


@pytest.mark.parametrize('options', [{'num': 0}, {'threshold': 1.5}])
def test_options_out_of_range(options):
  with pytest.raises(UserError):
    Particles(even, **options)
