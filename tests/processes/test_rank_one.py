"""Bridges, head conversions, and what happens at the ends of time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from tests.oracle import PROCESSES, Law, distance, law_of_chain
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
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
MIXED = ['uniform', 'hybrid', 'xdlm', 'uniform-beside-mask']


@functools.cache
def distances(name):
  """{head: [3]} between the law and its chains of 8, 32 and 128 steps."""
  process = PROCESSES[name](3)
  law = Law(process, 2)
  heads = {
    'cavity': law.cavity,
    'posterior': law.posterior,
    'as_cavity': lambda z, t: Cavity(law.posterior(z, t).logits),
    'as_posterior': lambda z, t: Posterior(law.cavity(z, t).logits),
  }

  @jax.jit
  def of(times, steps):
    chain = lambda head: law_of_chain(
      process, head, law.length, times, steps=steps
    )
    return {name: distance(law, chain(head)) for name, head in heads.items()}

  def times(steps):
    """All as long as the longest."""
    grid = np.sin(np.pi / 2 * np.linspace(1, 0, steps + 1)) ** 2
    return np.pad(grid, (0, 128 - steps))

  each = [of(times(steps), steps) for steps in (8, 32, 128)]
  return {name: np.array([one[name] for one in each]) for name in heads}


@pytest.mark.parametrize('name', ['absorbing', 'uniform', 'hybrid', 'xdlm'])
def test_chain_converges_as_one_over_t_for_honest_heads(name):
  cavity, posterior = (distances(name)[k] for k in ('cavity', 'posterior'))
  np.testing.assert_allclose(cavity, posterior, rtol=1e-6)
  assert cavity[0] / cavity[2] > 12
  assert cavity[2] < 0.01


@pytest.mark.parametrize('name', ['uniform', 'hybrid', 'xdlm'])
def test_chain_of_mislabelled_heads_never_converges(name):
  for head in ('as_cavity', 'as_posterior'):
    assert distances(name)[head][2] > 0.03


@pytest.mark.parametrize('name', PROCESSES)
def test_posterior_bridge_is_the_mixture_of_exact_bridges(name):
  process, (s, t) = PROCESSES[name](4), (0.3, 0.7)
  tokens = Law(process, 1).tokens

  @jax.jit
  def bridges():
    key = jax.random.key(0)
    z = process.corrupt(key, tokens[np.array([0, 1, 2, 3, 0, 1])], t)
    cavity = Cavity(jax.random.normal(key, (6, process.num_states)))
    posterior = to_posterior(process, cavity, z, t)
    ids = jnp.broadcast_to(tokens[:, None], (4, 6))
    every_z = jnp.broadcast_to(z, (4, 6))
    exact = process.bridge(process.clean(ids), every_z, s, t)
    weights = jnp.exp(posterior.logits)[:, tokens].T[..., None]
    parts = jnp.where(weights > 0, jnp.exp(exact.log_probs), 0.0)
    plugins = [
      jnp.exp(process.bridge(head, z, s, t).log_probs)
      for head in (cavity, posterior)
    ]
    return (weights * parts).sum(0), plugins

  mixture, plugins = bridges()
  for plugin in plugins:
    np.testing.assert_allclose(plugin, mixture, atol=1e-12)


@pytest.mark.parametrize('name', MIXED)
def test_heads_round_trip(name):
  process, t = PROCESSES[name](4), 0.4
  z = Law(process, 1).tokens[np.array([0, 1, 2, 3, 0, 1])]
  logits = np.random.default_rng(0).normal(size=(6, process.num_states))

  @jax.jit
  def there_and_back():
    head = Cavity(process.clean_log_probs(logits))
    others = [to(process, head, z, t) for to in (to_posterior, to_log_score)]
    backs = [to_cavity(process, other, z, t).logits for other in others]
    return head.logits, [process.clean_log_probs(back) for back in backs]

  head, backs = there_and_back()
  for back in backs:
    np.testing.assert_allclose(back, head, rtol=1e-9, atol=1e-9)


def test_foreign_heads_are_refused():
  process = uniform(4, Linear())
  with pytest.raises(TypeError, match='RankOne takes Cavity.*not X0'):
    process.bridge(X0(np.zeros((6, 4))), np.zeros(6, int), 0.1, 0.2)


@pytest.mark.parametrize('name', PROCESSES)
def test_chapman_kolmogorov(name):
  process, (s, t) = PROCESSES[name](4), (0.3, 0.7)
  x0 = Law(process, 1).tokens[1:2]

  @jax.jit
  def probabilities():
    q = lambda t: process.marginal(x0, t).log_probs[0]
    column = process.column(jnp.arange(process.num_states), s, t)
    return jnp.exp(q(t)), jnp.exp(q(s)), jnp.exp(column)

  one, before, column = map(np.asarray, probabilities())
  np.testing.assert_allclose(one, column @ before, atol=1e-12)
  np.testing.assert_allclose(column.sum(0), 1.0, atol=1e-12)


@pytest.mark.parametrize('name', PROCESSES)
def test_rate_is_the_derivative_of_the_transition(name):
  """q_{t+h|t}(z | y) = h R(y -> z) + O(h^2) for y other than z."""
  process, t, h = PROCESSES[name](4), 0.4, 1e-7
  states = np.arange(process.num_states)

  @jax.jit
  def columns():
    column = jnp.exp(process.column(states, t, t + h)) / h
    return column, jnp.broadcast_to(process.rate(states, t), column.shape)

  column, rate = map(np.asarray, columns())
  off = ~np.eye(len(states), dtype=bool)
  np.testing.assert_allclose(column[off], rate[off], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', PROCESSES)
def test_corrupt_follows_the_marginal(name):
  """Chi-square of 20,000 draws; false alarm 1e-5."""
  process = PROCESSES[name](4)
  x0 = int(Law(process, 1).tokens[2])

  @jax.jit
  def drawn():
    z = process.corrupt(jax.random.key(1), jnp.full(20_000, x0), 0.6)
    return z, jnp.exp(process.marginal(jnp.array([x0]), 0.6).log_probs[0])

  z, p = map(np.asarray, drawn())
  seen = np.bincount(z, minlength=process.num_states)
  assert seen[p == 0].sum() == 0
  value = ((seen - 20_000 * p)[p > 0] ** 2 / (20_000 * p[p > 0])).sum()
  assert value < chi2.ppf(1 - 1e-5, (p > 0).sum() - 1)


@pytest.mark.parametrize('name', PROCESSES)
def test_clean_tokens_stay_and_ends_are_finite(name):
  process = PROCESSES[name](4)
  z = Law(process, 1).tokens
  if process.mask_id is not None and 'beside' not in name:
    z[3] = process.mask_id
  logits = np.random.default_rng(0).normal(size=(4, process.num_states))
  t = np.array([0.0, 0.0, 0.8, 1.0])
  s = np.array([0.0, 0.0, 0.5, 0.0])

  @jax.jit
  def bridged(logits):
    dist = lambda logits: process.bridge(Cavity(logits), z, s, t)
    loss = lambda logits: dist(logits).log_prob(z)[:2].sum()
    of = dist(logits)
    return of.logits, of.log_prob(z), jax.grad(loss)(logits)

  bridge, log_prob, grad = map(np.asarray, bridged(logits))
  assert not np.isnan(bridge).any()
  np.testing.assert_array_equal(log_prob[:2], 0.0)
  assert np.isfinite(grad).all()


def test_shared_and_per_token_times_agree():
  process = uniform(5, Linear())
  rng = np.random.default_rng(0)
  z, head = rng.integers(0, 5, 6), Cavity(rng.normal(size=(6, 5)))
  bridge = jax.jit(lambda s, t: process.bridge(head, z, s, t).log_probs)
  one, each = bridge(0.2, 0.7), bridge(np.full(6, 0.2), np.full(6, 0.7))
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

  @jax.jit
  def parts():
    key, x0 = jax.random.key(0), jnp.full(4000, tokens[0])
    return (
      jnp.exp(process.marginal(tokens[:1], t).log_probs[0]),
      process.share(jnp.asarray(t)),
      jnp.exp(process.schedule(t).log_1m_alpha[0]),
      process.corrupt(key, x0, 1 - 1e-9),
    )

  p, share, noise, z = map(np.asarray, parts())
  np.testing.assert_allclose(p[tokens[1:]], noise * (1 - share) / 4)
  np.testing.assert_allclose(p.sum(), 1.0)
  if process.mask_id is not None:
    np.testing.assert_allclose(p[process.mask_id], noise * share, atol=1e-15)
    if share == 0:
      assert (z != process.mask_id).all()
    assert set(np.unique(z)) <= set(range(process.num_states))


def test_mixtures_end_in_the_plain_processes():
  """k = 0 is absorbing, k = 1 uniform beside a mask; and noise uniform over
  all K states with weight k is the mixture k N / K."""
  x0, t = np.array([0, 2]), 0.3
  none, all_ = (mixture(4, 1, Linear(), k) for k in (0.0, 1.0))
  assert none.is_absorbing
  q = jax.jit(lambda p: jnp.exp(p.marginal(x0, t).log_probs))
  np.testing.assert_allclose(q(all_), q(uniform(4, Linear(), 1)))
  k = 0.1
  pi = k / 4 + (1 - k) * np.eye(4)[1]
  want = (1 - t) * np.eye(4)[x0] + t * pi
  np.testing.assert_allclose(q(mixture(4, 1, Linear(), k * 3 / 4)), want)


def test_hybrid_in_float32_is_precise_at_both_ends():
  """Signal, noise, shares and the rate within 2e-6 of float64: at 1 - 2^-24
  the plain difference 1 - share had lost 1e-3 of itself."""
  t = np.array([2.0**-24, 1e-5, 0.3, 0.7, 1 - 1e-5, 1 - 2.0**-24], np.float32)
  z = np.array([[0], [4]])

  @jax.jit
  def values(t):
    p = hybrid(5, 4, Hybrid(0.2))
    level = p.schedule(t)
    return [*map(jnp.exp, level[:2]), level.rate, jnp.exp(p.log_noise(z, t))]

  with jax.enable_x64(False):
    mine = values(t)
    assert mine[0].dtype == np.float32
  for a, b in zip(mine, values(t.astype(float)), strict=True):
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
