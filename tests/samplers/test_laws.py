"""Samples follow the law: free, prompted, infilled, by every sampler of tokens.

Chi-square tests with fixed seeds; the false-alarm rate of each is 1e-5.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import (
  PROCESSES,
  Law,
  assert_follows,
  chi_square,
  law_of_chain,
)
from tests.samplers.models import HeadModel, canvas_of, exact, run
from textdiffusion.core.types import Cavity
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers import (
  Ancestral,
  Euler,
  Filter,
  FirstHitting,
  Gibbs,
  Ordered,
  Psi,
  Remask,
  TauLeaping,
)
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Cosine, Geometric, Linear, Polynomial

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
ROWS = 4_000
MASKED, UNIFORM = absorbing(4, 1, Linear()), uniform(3, Linear())


@pytest.mark.parametrize('name', PROCESSES)
def test_samples_follow_the_law_of_their_chain(name):
  """At 6 steps, where it is far from the limit: every interval counts."""
  process = PROCESSES[name](3)
  law = Law(process, 2)
  chain = np.asarray(law_of_chain(process, law.cavity, 2, grids.cosine(6)))
  place = law.ids * process.num_states ** jnp.arange(2)[None, ::-1]
  probs = chain[place.sum(-1)]
  np.testing.assert_allclose(probs.sum(), 1, atol=1e-9)
  samples = run(exact(law), canvas_of(20_000, None, None), Ancestral(6))
  assert_follows(law, samples.ids, probs)


MASK_SAMPLERS = {
  'ancestral': Ancestral(128),
  'skip': Ancestral(128, skip=True),
  'first hitting': FirstHitting(),
}


@pytest.mark.parametrize('sampler', MASK_SAMPLERS)
@pytest.mark.parametrize(
  'mask_id, schedule', [(0, Linear()), (3, Cosine()), (1, Polynomial(3.0))]
)
def test_masked_samples_follow_the_law(sampler, mask_id, schedule):
  """At 128 steps the bias adds less than 1 to the expected chi-square."""
  law = Law(absorbing(4, mask_id, schedule), 2)
  canvas = canvas_of(ROWS, None, None)
  samples = run(exact(law), canvas, MASK_SAMPLERS[sampler])
  assert_follows(law, samples.ids, np.exp(law.log_p))


@pytest.mark.parametrize('name', ['uniform', 'uniform-beside-mask'])
def test_noisy_samples_follow_the_law(name):
  law = Law(PROCESSES[name](3), 2)
  canvas = canvas_of(ROWS, None, None)
  samples = run(exact(law), canvas, Ancestral(128, 'uniform'))
  assert_follows(law, samples.ids, np.exp(law.log_p))


def test_the_chi_square_bites():
  """A single step draws tokens independently, and the test notices."""
  law = Law(absorbing(4, 3, Linear()), 2)
  samples = run(exact(law), canvas_of(40_000, None, None), Ancestral(1))
  value, _, limit = chi_square(law, samples.ids, np.exp(law.log_p))
  assert value > 3 * limit


CONDITIONAL = {
  'absorbing': (MASKED, Ancestral(128, 'uniform')),
  'absorbing, skip': (MASKED, Ancestral(128, 'uniform', skip=True)),
  'absorbing-cosine': (absorbing(4, 1, Cosine()), Ancestral(128, 'uniform')),
  'first hitting': (absorbing(4, 1, Cosine()), FirstHitting()),
  'uniform': (UNIFORM, Ancestral(128, 'uniform')),
  'left to right': (MASKED, Ordered('left_to_right')),
  'random': (MASKED, Ordered('random')),
  'confidence': (MASKED, Ordered('confidence')),
  'margin': (MASKED, Ordered('margin')),
  'entropy': (MASKED, Ordered('entropy')),
  'rescale': (MASKED, Remask(64, 'uniform', kind='rescale', eta=0.03)),
  'by confidence': (MASKED, Remask(64, 'uniform', kind='confidence', eta=0.1)),
  'loop': (MASKED, Remask(256, 'uniform', kind='loop')),
  'psi': (UNIFORM, Psi(64, 'uniform', kind='constant', eta=0.03)),
  'psi cap': (MASKED, Psi(64, 'uniform', eta=0.01)),
  'euler': (UNIFORM, Euler(64, 'uniform')),
  'tau leaping': (UNIFORM, TauLeaping(256, 'uniform')),
  'gibbs': (MASKED, Gibbs(Ancestral(2, 'uniform'), 20)),
  'gibbs of uniform noise': (UNIFORM, Gibbs(Ancestral(16, 'uniform'), 4)),
}


@pytest.mark.parametrize('place', [1, 0])
@pytest.mark.parametrize('name', CONDITIONAL)
def test_infilling_follows_the_conditional_law(name, place):
  """Samplers learn of the given token by t = 0 only. The bias of steps is
  below what 4,000 rows show."""
  process, sampler = CONDITIONAL[name]
  law, given = Law(process, 3), [None] * 3
  given[place] = 2
  canvas = canvas_of(ROWS, *given)
  samples = run(exact(law), canvas, sampler)
  np.testing.assert_array_equal(samples.ids[:, place], 2)
  is_given, values = canvas.is_given[0], canvas.ids[0]
  assert_follows(law, samples.ids, law.conditional(is_given, values))


class Clamped(Ancestral):
  """Given tokens are put back after each step, under a shared time."""

  def step(self, keys, model, carry, s, t):
    shared = (jnp.broadcast_to(time.max(), time.shape) for time in (s, t))
    after = super().step(keys, model, carry, *shared)
    return after._replace(x=jnp.where(t > 0, after.x, carry.x))


def test_clamping_a_prompt_under_a_shared_time_gives_another_law():
  """Why given tokens have t = 0: on uniform noise clamping is wrong."""
  law, canvas = Law(UNIFORM, 2), canvas_of(ROWS, 1, None)
  want = law.conditional(canvas.is_given[0], canvas.ids[0])
  clamped = run(exact(law), canvas, Clamped(128))
  value, _, limit = chi_square(law, clamped.ids, want)
  assert value > 5 * limit
  assert_follows(law, run(exact(law), canvas, Ancestral(128)).ids, want)


@pytest.mark.parametrize('process', [MASKED, UNIFORM])
def test_a_temperature_of_one_token(process):
  """Its law to the power 1 / 0.7, for any process."""
  law, canvas = Law(process, 1), canvas_of(ROWS, None)
  samples = run(exact(law), canvas, Ancestral(1, filter=Filter(0.7)))
  tempered = np.exp(law.log_p / 0.7)
  assert_follows(law, samples.ids, tempered / tempered.sum())


NO_NOISE = {
  'ancestral': Ancestral(4),
  'euler': Euler(4),
  'tau leaping': TauLeaping(4),
  'remask': Remask(4, eta=0.5),
  'psi': Psi(4, eta=0.5),
}


@pytest.mark.parametrize('name', NO_NOISE)
def test_no_noise_of_the_schedule_is_left_in_a_sample(name):
  """Where a third of the tokens is still noise at t = 0, given ones are not."""
  logits = jnp.asarray([9.0, 0.0, -9.0, -9.0])
  head = lambda x, t: Cavity(jnp.broadcast_to(logits, (*x.shape, 4)))
  for process in (
    absorbing(4, 1, Geometric(0.4, 20.0)),
    uniform(4, Geometric(0.4, 20.0), mask_id=1),
  ):
    if name == 'remask' and not process.is_absorbing:
      continue
    canvas = canvas_of(200, None, 3, None)
    ids = run(HeadModel(process, head), canvas, NO_NOISE[name]).ids
    assert (ids != 1).all() and (ids[:, 1] == 3).all()
    if process.is_absorbing:
      assert (ids[:, ::2] == 0).mean() > 0.99
