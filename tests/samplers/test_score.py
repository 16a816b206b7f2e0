"""The Tweedie step: the bridge of honest ratios, and what it does of others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import PROCESSES, Law, law_of_chain, total_variation
from tests.samplers.models import HeadModel, run
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import LogScore
from textdiffusion.objectives.score_entropy import LogScoreHead
from textdiffusion.processes.bridge import to_log_score
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers import Ancestral, Canvas, Tweedie
from textdiffusion.samplers.score import tweedie
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Geometric, Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)
# Ratios at t = 1 are defined only where signal is left, as here.
GRAPHS = {
  'absorbing': absorbing(4, 1, Linear(1e-4)),
  'uniform': uniform(3, Linear(1e-4)),
  'uniform-beside-mask': uniform(4, Geometric(1e-4, 20.0), mask_id=0),
}


def scores_of(process, law):
  return lambda z, t: to_log_score(process, law.cavity(z, t), z, t)


@pytest.mark.parametrize('name', PROCESSES)
def test_of_honest_ratios_it_is_the_bridge(name):
  process = PROCESSES[name](3)
  law = Law(process, 3)
  z = jnp.asarray(law.tokens)
  if process.mask_id is not None and 'beside' not in name:
    z = z.at[1:].set(process.mask_id)
  t = jnp.array([0.0, 0.6, 0.9])  # the first is given
  for s in (0.7 * t, 0.0 * t):
    head = jax.jit(scores_of(process, law))(z, t)
    mine = jnp.exp(jax.jit(tweedie(process))(head, z, s, t).log_probs)
    want = jnp.exp(jax.jit(process.bridge)(head, z, s, t).log_probs)
    np.testing.assert_allclose(mine, want, atol=1e-12)
    np.testing.assert_array_equal(mine[0], jnp.arange(len(mine[0])) == z[0])


def test_masks_are_revealed_at_the_rate_that_the_ratios_sum_to():
  """(e^dsigma - 1) sum_y s_y, and by the bridge (e^dsigma - 1) / (e^sigma - 1)
  whatever the sum; until it is more than 1."""
  process, s, t = absorbing(4, 3, Linear(1e-3)), 0.45, 0.5
  revealed = jax.jit(tweedie(process))
  bridged = jax.jit(process.bridge)
  sigma = lambda t: -process.schedule(t).log_alpha[0]
  step = jnp.expm1(sigma(t) - sigma(s))
  for total in (0.2, 1.0, 4.0, 40.0):
    ratios = total * jnp.array([0.5, 0.2, 0.3])
    head = LogScore(jnp.log(jnp.append(ratios, 1.0))[None])
    z = jnp.array([3])
    p = jnp.exp(revealed(head, z, s, t).log_probs[0])
    np.testing.assert_allclose(p[:3], min(step * total, 1) * ratios / total)
    p = jnp.exp(bridged(head, z, s, t).log_probs[0])
    np.testing.assert_allclose(1 - p[3], step / jnp.expm1(sigma(t)))


def euler(process):
  """The first-order step of the rates R s, for comparison."""

  def transition(head, xt, s, t):
    is_own = one_hot(xt, process.num_states)
    jumps = (t - s) * process.rate(xt, t) * jnp.exp(head.value)
    jumps = jnp.where(is_own, 0.0, jumps)
    stay = jnp.maximum(1 - jumps.sum(-1, keepdims=True), 0.0)
    return Categorical(jnp.log(jnp.where(is_own, stay, jumps)))

  return transition


@pytest.mark.parametrize(
  'name, rule, seed',
  [
    *((name, tweedie, seed) for name in GRAPHS for seed in (0, 1)),
    ('absorbing', euler, 0),
    ('uniform', euler, 0),
  ],
)
def test_chains_converge_free_and_infilling(name, rule, seed):
  """As 1 / T down to what eps = 1e-4 leaves; see the grid in test_rank_one.
  One free token has no error of factorisation, so Tweedie steps have none."""
  process = GRAPHS[name]
  law = Law(process, 2, seed)
  is_exact = rule is tweedie

  def far(num_steps, given=None):
    grid = jnp.sin(jnp.pi / 2 * grids.uniform(num_steps)) ** 2
    chain = jax.jit(
      lambda grid: law_of_chain(
        process, scores_of(process, law), 2, grid, rule(process), given
      )
    )(grid)
    return total_variation(law, chain, given)

  few, many = far(8), far(128)
  assert few / many > 12
  assert many < (0.01 if is_exact else 0.03)
  if is_exact:
    assert far(8, jnp.array([int(law.tokens[1]), -1])) < 5e-4


@pytest.mark.parametrize('name', GRAPHS)
def test_a_mislabelled_head_never_converges(name):
  """A law of the clean token that is passed for ratios of the noisy one."""
  process = GRAPHS[name]
  law = Law(process, 2)
  wrong = lambda z, t: LogScore(law.cavity(z, t).logits)
  grid = jnp.sin(jnp.pi / 2 * grids.uniform(128)) ** 2
  chain = law_of_chain(process, wrong, 2, grid, tweedie(process))
  assert total_variation(law, chain) > 0.1


@pytest.mark.parametrize('name', GRAPHS)
def test_the_last_step_leaves_no_noise(name):
  """No mask whatever the ratios sum to, and the noise of t = 0 gone too: of
  honest ratios the posterior."""
  process = GRAPHS[name]
  law = Law(process, 2)
  z = jnp.asarray(law.tokens)[jnp.array([2, 0])]
  z = jnp.where(process.is_absorbing, process.mask_id or 0, z)
  head = jax.jit(scores_of(process, law))(z, 0.4)
  step = jax.jit(tweedie(process))
  mine = jnp.exp(step(head, z, 0.0, 0.4).log_probs)
  want = jnp.exp(law.posterior(z, 0.4).logits)
  np.testing.assert_allclose(mine, want, atol=1e-12)
  given = jnp.asarray(law.tokens)[:2]
  head = jax.jit(scores_of(process, law))(given, 0.0)
  mine = step(head, given, 0.0, 0.0)  # the noise of t = 0 does not move it
  np.testing.assert_array_equal(mine.log_prob(given), 0.0)
  if process.is_absorbing:
    head = scores_of(process, law)(z, 0.4)
    few = LogScore(head.value.at[:, process.mask_id].add(3.0))
    p = jnp.exp(step(few, z, 0.0, 0.4).log_probs)
    assert (p[:, process.mask_id] == 0).all()


@pytest.mark.parametrize('name', GRAPHS)
def test_given_tokens_stay_whatever_the_network_says(name):
  """In float32, by the sampler and by Tweedie steps, and nothing is NaN."""
  with jax.enable_x64(False):
    process = GRAPHS[name]
    head = functools.partial(LogScoreHead(process.is_absorbing), process)
    raw = 200 + 100 * jax.random.normal(KEY, (4, process.num_states))
    model = HeadModel(process, lambda x, t: head(raw[x], x, t))
    is_given = jnp.arange(6)[None] % 2 == jnp.zeros((8, 1))
    canvas = Canvas(jnp.full((8, 6), 2), is_given)
    for sampler in (Ancestral(8), Tweedie(8)):
      samples = run(model, canvas, sampler)
      assert (samples.ids[is_given] == 2).all()
      assert jnp.isfinite(samples.log_prob).all()
      assert not process.is_mask(samples.ids).any()
