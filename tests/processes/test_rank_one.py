"""Bridges, head conversions, and what happens at the ends of time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from tests.oracle import PROCESSES, Law, law_of_chain, total_variation
from textdiffusion.core.types import X0, Cavity, Posterior, UserError
from textdiffusion.processes.bridge import (
  to_cavity,
  to_log_score,
  to_posterior,
)
from textdiffusion.processes.rank_one import (
  Hybrid,
  absorbing,
  hybrid,
  mixture,
  uniform,
)
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
MIXED = ['uniform', 'hybrid', 'xdlm', 'uniform-beside-mask']


def far(process, law, head_of, num_steps):
  """Total variation between the chain's law and the law."""
  grid = jnp.sin(jnp.pi / 2 * grids.uniform(num_steps)) ** 2
  chain = law_of_chain(process, head_of, law.length, grid)
  return total_variation(law, chain)


@pytest.mark.parametrize('name', ['absorbing', 'uniform', 'hybrid', 'xdlm'])
def test_chain_converges_as_one_over_t_for_honest_heads(name):
  process = PROCESSES[name](3)
  law = Law(process, 2)
  cavity = [far(process, law, law.cavity, n) for n in (8, 32, 128)]
  posterior = [far(process, law, law.posterior, n) for n in (8, 32, 128)]
  np.testing.assert_allclose(cavity, posterior, rtol=1e-6)
  assert cavity[0] / cavity[2] > 12
  assert cavity[2] < 0.01


@pytest.mark.parametrize('name', ['uniform', 'hybrid', 'xdlm'])
def test_chain_of_mislabelled_heads_never_converges(name):
  process = PROCESSES[name](3)
  law = Law(process, 2)
  as_cavity = lambda z, t: Cavity(law.posterior(z, t).logits)
  as_posterior = lambda z, t: Posterior(law.cavity(z, t).logits)
  for head in (as_cavity, as_posterior):
    assert far(process, law, head, 128) > 0.03


@pytest.mark.parametrize('name', PROCESSES)
def test_posterior_bridge_is_the_mixture_of_exact_bridges(name):
  process, (s, t) = PROCESSES[name](4), (0.3, 0.7)
  key = jax.random.key(0)
  tokens = jnp.asarray(Law(process, 1).tokens)
  z = process.corrupt(key, tokens[jnp.array([0, 1, 2, 3, 0, 1])], t)
  cavity = Cavity(jax.random.normal(key, (6, process.num_states)))
  posterior = to_posterior(process, cavity, z, t)
  ids = jnp.broadcast_to(tokens[:, None], (4, 6))
  exact = process.bridge(process.clean(ids), jnp.broadcast_to(z, (4, 6)), s, t)
  weights = jnp.exp(posterior.logits)[:, tokens].T[..., None]
  parts = jnp.where(weights > 0, jnp.exp(exact.log_probs), 0.0)
  mixture = (weights * parts).sum(0)
  for head in (cavity, posterior):
    plugin = jnp.exp(process.bridge(head, z, s, t).log_probs)
    np.testing.assert_allclose(plugin, mixture, atol=1e-12)


@pytest.mark.parametrize('name', MIXED)
def test_heads_round_trip(name):
  process, t = PROCESSES[name](4), 0.4
  key = jax.random.key(0)
  z = jnp.asarray(Law(process, 1).tokens)[jnp.array([0, 1, 2, 3, 0, 1])]
  logits = jax.random.normal(key, (6, process.num_states))
  head = Cavity(process.clean_log_probs(logits))
  for to in (to_posterior, to_log_score):
    back = to_cavity(process, to(process, head, z, t), z, t)
    np.testing.assert_allclose(
      process.clean_log_probs(back.logits), head.logits, rtol=1e-9, atol=1e-9
    )


def test_foreign_heads_are_refused():
  process = uniform(4, Linear())
  with pytest.raises(TypeError, match='RankOne takes Cavity.*not X0'):
    process.bridge(X0(jnp.zeros((6, 4))), jnp.zeros(6, int), 0.1, 0.2)


@pytest.mark.parametrize('name', PROCESSES)
def test_chapman_kolmogorov(name):
  process, (s, t) = PROCESSES[name](4), (0.3, 0.7)
  states = jnp.arange(process.num_states)
  x0 = jnp.asarray(Law(process, 1).tokens)[1:2]
  one = jnp.exp(process.marginal(x0, t).log_probs[0])
  column = jnp.exp(process.column(states, s, t))
  two = column @ jnp.exp(process.marginal(x0, s).log_probs[0])
  np.testing.assert_allclose(one, two, atol=1e-12)
  np.testing.assert_allclose(column.sum(0), 1.0, atol=1e-12)


@pytest.mark.parametrize('name', PROCESSES)
def test_rate_is_the_derivative_of_the_transition(name):
  """q_{t+h|t}(z | y) = h R(y -> z) + O(h^2) for y other than z."""
  process, t, h = PROCESSES[name](4), 0.4, 1e-7
  states = jnp.arange(process.num_states)
  column = jnp.exp(process.column(states, t, t + h)) / h
  rate = jnp.broadcast_to(process.rate(states, t), column.shape)
  off = ~jnp.eye(len(states), dtype=bool)
  np.testing.assert_allclose(column[off], rate[off], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', PROCESSES)
def test_corrupt_follows_the_marginal(name):
  """Chi-square of 20,000 draws; false alarm 1e-5."""
  process = PROCESSES[name](4)
  x0 = int(Law(process, 1).tokens[2])
  z = process.corrupt(jax.random.key(1), jnp.full(20_000, x0), 0.6)
  p = np.exp(process.marginal(jnp.array([x0]), 0.6).log_probs[0])
  seen = np.bincount(z, minlength=process.num_states)
  assert seen[p == 0].sum() == 0
  value = ((seen - 20_000 * p)[p > 0] ** 2 / (20_000 * p[p > 0])).sum()
  assert value < chi2.ppf(1 - 1e-5, (p > 0).sum() - 1)


@pytest.mark.parametrize('name', PROCESSES)
def test_clean_tokens_stay_and_ends_are_finite(name):
  process = PROCESSES[name](4)
  z = jnp.asarray(Law(process, 1).tokens)
  if process.mask_id is not None and 'beside' not in name:
    z = z.at[3].set(process.mask_id)
  head = Cavity(jax.random.normal(jax.random.key(0), (4, process.num_states)))
  t = jnp.array([0.0, 0.0, 0.8, 1.0])
  s = jnp.array([0.0, 0.0, 0.5, 0.0])
  dist = process.bridge(head, z, s, t)
  assert not jnp.isnan(dist.logits).any()
  np.testing.assert_array_equal(dist.log_prob(z)[:2], 0.0)
  grad = jax.grad(lambda h: process.bridge(h, z, s, t).log_prob(z)[:2].sum())
  assert jnp.isfinite(grad(head).logits).all()


def test_shared_and_per_token_times_agree():
  process = uniform(5, Linear())
  key = jax.random.key(0)
  z = jax.random.randint(key, (6,), 0, 5)
  head = Cavity(jax.random.normal(key, (6, 5)))
  one = process.bridge(head, z, 0.2, 0.7).log_probs
  each = process.bridge(head, z, jnp.full(6, 0.2), jnp.full(6, 0.7)).log_probs
  np.testing.assert_array_equal(one, each)


def test_a_mask_outside_the_states_is_refused():
  with pytest.raises(ValueError, match='mask_id=9'):
    absorbing(5, 9, Linear())


@pytest.mark.parametrize('name', MIXED)
def test_the_mask_is_no_token(name):
  """Spread noise is 1 / N of N tokens, none of it the mask, and clean tokens
  are among the N; the mask has its own share and no more."""
  process, t = PROCESSES[name](4), 0.5
  tokens = np.asarray(Law(process, 1).tokens)
  assert len(tokens) == process.vocab_size == 4
  p = np.exp(process.marginal(jnp.asarray(tokens[:1]), t).log_probs[0])
  share = float(process.share(jnp.asarray(t)))
  noise = float(jnp.exp(process.schedule(t).log_1m_alpha[0]))
  np.testing.assert_allclose(p[tokens[1:]], noise * (1 - share) / 4)
  np.testing.assert_allclose(p.sum(), 1.0)
  if process.mask_id is not None:
    np.testing.assert_allclose(p[process.mask_id], noise * share, atol=1e-15)
    x0 = jnp.full(4000, tokens[0])
    z = process.corrupt(jax.random.key(0), x0, 1 - 1e-9)
    if share == 0:
      assert (z != process.mask_id).all()
    assert set(np.unique(z)) <= set(range(process.num_states))


def test_mixtures_end_in_the_plain_processes():
  """k = 0 is absorbing, k = 1 uniform beside a mask; and noise uniform over
  all K states with weight k is the mixture k N / K."""
  x0, t = jnp.array([0, 2]), 0.3
  none, all_ = (mixture(4, 1, Linear(), k) for k in (0.0, 1.0))
  assert none.is_absorbing
  q = lambda p: jnp.exp(p.marginal(x0, t).log_probs)
  np.testing.assert_allclose(q(all_), q(uniform(4, Linear(), 1)))
  k = 0.1
  pi = k / 4 + (1 - k) * jnp.eye(4)[1]
  want = (1 - t) * jnp.eye(4)[x0] + t * pi
  np.testing.assert_allclose(q(mixture(4, 1, Linear(), k * 3 / 4)), want)


def test_hybrid_in_float32_is_precise_at_both_ends():
  """Signal, noise, shares and the rate within 2e-6 of float64: at 1 - 2^-24
  the plain difference 1 - share had lost 1e-3 of itself."""
  t = np.array([2.0**-24, 1e-5, 0.3, 0.7, 1 - 1e-5, 1 - 2.0**-24], np.float32)
  z = jnp.array([[0], [4]])

  def values(t):
    p = hybrid(5, 4, Hybrid(0.2))
    level = p.schedule(t)
    return [*map(jnp.exp, level[:2]), level.rate, jnp.exp(p.log_noise(z, t))]

  with jax.enable_x64(False):
    mine = values(jnp.asarray(t))
    assert mine[0].dtype == jnp.float32
  for a, b in zip(mine, values(jnp.asarray(t.astype(float))), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-6)


@pytest.mark.parametrize(
  'make, told',
  [
    (lambda: Hybrid(1.0), 'p_uniform=1.0'),
    (lambda: Hybrid(0.1, 2.5), 'gamma=2.5'),
    (lambda: mixture(4, 1, Linear(), 1.5), 'share of -0.5'),
  ],
)
def test_shares_out_of_range_are_refused(make, told):
  with pytest.raises(UserError, match=told):
    make()
