"""Guidance around any sampler."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import (
  PROCESSES,
  Law,
  assert_follows,
  chi_square,
  law_of_chain,
  total_variation,
)
from tests.samplers.models import KEY, HeadModel, canvas_of, exact, run
from textdiffusion.core.distributions import Normal, extrapolate
from textdiffusion.core.types import Cavity, Eps, Posterior, UserError
from textdiffusion.guidance import ClassifierGuided, Guided
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
from textdiffusion.schedules import grids
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


def test_heads_of_two_types_are_refused():
  with pytest.raises(TypeError, match='not Cavity and Posterior'):
    extrapolate(Cavity(jnp.zeros(3)), Posterior(jnp.zeros(3)), 1.0)


def test_extrapolation_and_its_gradient_stay_finite():
  """Also where a token is forbidden by one part or by both."""
  u, c = jax.random.normal(KEY, (2, 6, 5)).at[:, :, 4].set(-jnp.inf)
  for weight, want in ((0.0, u), (1.0, c)):
    mine = extrapolate(Cavity(c), Cavity(u), weight).logits
    np.testing.assert_allclose(mine, want, rtol=1e-6)

  def log_p(c):
    logits = extrapolate(Cavity(c), Cavity(u), 2.0).logits
    return jax.nn.log_softmax(logits)[..., 0].sum()

  assert jnp.isfinite(jax.grad(log_p)(c)).all()
  forbidden = extrapolate(Cavity(c.at[0, 0].set(-jnp.inf)), Cavity(u), -1.0)
  assert forbidden.logits[0, 0] == -jnp.inf
  eps = extrapolate(Eps(jnp.ones(3)), Eps(jnp.zeros(3)), 3.0)
  np.testing.assert_allclose(eps.value, 3.0)
  normal = extrapolate(Normal(c, u**2), Normal(u, u**2), 1.0)
  np.testing.assert_allclose(normal.mean[..., :4], c[..., :4], rtol=1e-6)


@pytest.mark.usefixtures('x64')
def test_a_guided_step_is_a_mix_of_steps_not_the_step_of_a_mix():
  process, (s, t) = PROCESSES['uniform'](4), (0.3, 0.7)
  z = jnp.array([0, 1, 2, 3])
  heads = tuple(map(Cavity, jax.random.normal(KEY, (2, 4, 4))))
  parts = [HeadModel(process, lambda x, t, h=h: h) for h in heads]
  guided = Guided(*parts, 2.0).reverse(z, s, t, process.bridge)
  steps = [process.bridge(h, z, s, t).log_probs for h in heads]
  want = jax.nn.log_softmax(2 * steps[0] - steps[1])
  np.testing.assert_allclose(guided.log_probs, want, rtol=1e-12)
  mixed = process.bridge(extrapolate(*heads, 2.0), z, s, t)
  assert abs(mixed.log_probs - want).max() > 0.1


class Labelled:
  """A law of one token, a label of it, and the law given the label."""

  def __init__(self, process):
    self.process, self.law = process, Law(process, 1)
    self.states = jnp.arange(process.num_states)
    self.label = jnp.linspace(0.1, 0.9, 4)  # p(label | x) of the tokens
    given = self.label * jnp.exp(self.law.log_p)
    self.aim = Law(process, 1)
    self.aim.log_p = jnp.log(given / given.sum())

  def log_prob(self, s):
    """[K] log p(label | x_s = k) = sum_x p(label | x) p(x | x_s = k)."""
    of = lambda k: self.law.posterior(k, s).logits[0]
    posterior = jnp.exp(jax.vmap(of)(self.states[:, None]))
    log_chance = jnp.log(posterior[:, self.aim.tokens] @ self.label)
    # At s = 0 no x is behind a mask; the bridge never goes there.
    return jnp.where(jnp.isnan(log_chance), 0.0, log_chance)


@pytest.mark.usefixtures('x64')
@pytest.mark.parametrize('name', ['absorbing', 'uniform', 'hybrid'])
def test_the_exact_classifier_gives_the_exact_conditional(name):
  """One token, whose reverse steps are exact at any number of them: times
  p(label | x_s) they are those of the law given the label, so that the chain
  of 5 steps ends in it; another weight does not."""
  one = Labelled(PROCESSES[name](4))

  def transition(weight):
    def guided(head, z, s, t):
      model = HeadModel(one.process, lambda x, t: head)
      log_prob = lambda x, t: one.log_prob(s)[None]
      by = one.process.bridge
      return ClassifierGuided(model, log_prob, weight).reverse(z, s, t, by)

    return guided

  def distance(weight):
    made = law_of_chain(
      one.process, one.law.cavity, 1, grids.uniform(5), transition(weight)
    )
    return total_variation(one.aim, made)

  assert distance(1.0) < 1e-9
  assert distance(0.0) > 0.05 and distance(2.0) > 0.02


@pytest.mark.parametrize('name', ['ancestral', 'first hitting', 'remask'])
def test_heads_guided_by_a_classifier_follow_the_law_given_the_label(name):
  """Chi-square at 1e-5; and without the classifier they do not."""
  one = Labelled(PROCESSES['absorbing'](4))
  plain, tokens = exact(one.law), one.aim.tokens

  def log_prob(x, t):
    of_token = jnp.full(one.process.num_states, -jnp.inf)
    of_token = of_token.at[tokens].set(jnp.log(one.label))
    return jnp.broadcast_to(of_token, (*x.shape, len(of_token)))

  model = ClassifierGuided(plain, log_prob, at='heads')
  sampler, canvas = OF_MASKS[name], canvas_of(ROWS, None)
  aim = np.exp(one.aim.log_p)
  assert_follows(one.law, run(model, canvas, sampler).ids, aim)
  value, _, limit = chi_square(one.law, run(plain, canvas, sampler).ids, aim)
  assert value > limit


def test_samplers_that_read_heads_refuse_guided_steps():
  law = Law(MASKED, 1)
  log_prob = lambda x, t: jnp.zeros((*x.shape, 4))
  model = ClassifierGuided(exact(law), log_prob)
  for sampler in (FirstHitting(), Ordered(), Remask(4)):
    with pytest.raises(UserError, match='reads heads'):
      sampler.check(model)
  Ancestral(4).check(model)
  run(model, canvas_of(4, None), Ancestral(4))
  uniform_model = ClassifierGuided(exact(Law(UNIFORM, 1)), log_prob, at='heads')
  with pytest.raises(UserError, match="use at='steps'"):
    run(uniform_model, canvas_of(4, None), Ancestral(4))
