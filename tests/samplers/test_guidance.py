"""Guidance around any sampler."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import Law, assert_follows, chi_square
from tests.samplers.models import canvas_of, exact, run
from textdiffusion.core.types import UserError
from textdiffusion.guidance import Guided
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers import (
  Ancestral,
  Blocks,
  Filter,
  FirstHitting,
  Gibbs,
  Ordered,
  Propose,
  Psi,
  Remask,
  SelfCorrect,
)
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('quick_compile')
ROWS = 4_000
MASKED, UNIFORM = absorbing(4, 1, Linear()), uniform(3, Linear())
OF_MASKS = {
  'one step': Ancestral(1),
  'ancestral': Ancestral(8),
  'first hitting': FirstHitting(),
  'ordered': Ordered(),
  'remask': Remask(8, eta=0.2),
  'blocks': Blocks(1, Propose(filter=Filter())),
}


def two_models(process, length):
  laws = [Law(process, length, seed) for seed in (0, 1)]
  return laws, [exact(law) for law in laws]


@pytest.mark.parametrize('name', OF_MASKS)
def test_one_masked_token_follows_the_guided_law(name):
  """cond^2 / uncond, normalised: chi-square at 1e-5."""
  (law, other), parts = two_models(MASKED, 1)
  want = np.exp(2 * law.log_p - other.log_p)
  sampler, canvas = OF_MASKS[name], canvas_of(ROWS, None)
  guided = run(Guided(*parts, 2.0), canvas, sampler)
  assert_follows(law, guided.ids, want / want.sum())
  plain = run(parts[0], canvas, sampler)
  value, _, limit = chi_square(law, plain.ids, want / want.sum())
  assert value > limit


def test_uniform_noise_is_guided_at_the_step():
  (law, other), parts = two_models(UNIFORM, 1)
  want = np.exp(2 * law.log_p - other.log_p)
  samples = run(Guided(*parts, 2.0), canvas_of(ROWS, None), Ancestral(1))
  assert_follows(law, samples.ids, want / want.sum())


@pytest.mark.parametrize(
  'cut', [Filter(0.0), Filter(top_k=2), Filter(top_p=0.9)]
)
def test_filters_that_cut_are_refused_where_steps_are_mixed(cut):
  """Two parts that leave different tokens would leave none."""
  _, parts = two_models(UNIFORM, 1)
  sampler = Ancestral(2, filter=cut)
  with pytest.raises(UserError, match='guidance of noise that is no mask'):
    sampler.check(Guided(*parts, 2.0))
  sampler.check(Guided(*parts, 1))
  Ancestral(2, filter=Filter(0.5)).check(Guided(*parts, 2.0))
  _, masked = two_models(MASKED, 1)
  sampler.check(Guided(*masked, 2.0))


ANY = {
  'ancestral': (UNIFORM, Ancestral(4)),
  'greedy': (UNIFORM, Ancestral(4, final='greedy')),
  'psi': (UNIFORM, Psi(4, eta=0.1)),
  'gibbs': (UNIFORM, Gibbs(Ancestral(4), 2)),
  'self correction': (UNIFORM, SelfCorrect(Ancestral(4), 3)),
  'remask': (MASKED, Remask(4, kind='confidence', eta=0.3)),
  'gibbs of masks': (MASKED, Gibbs(Ancestral(4), 2)),
}


@pytest.mark.parametrize('name', ANY)
def test_weights_of_zero_and_one_are_the_parts(name):
  process, sampler = ANY[name]
  _, parts = two_models(process, 3)
  canvas = canvas_of(64, None, 2, None)
  samples = [
    run(model, canvas, sampler)
    for model in (Guided(*parts, 1), parts[0], Guided(*parts, 3.0))
  ]
  np.testing.assert_array_equal(samples[0].ids, samples[1].ids)
  np.testing.assert_array_equal(samples[0].log_prob, samples[1].log_prob)
  assert (samples[2].ids != samples[1].ids).any()
  assert jnp.isfinite(samples[2].log_prob).all()
  assert (samples[2].ids[:, 1] == 2).all()
