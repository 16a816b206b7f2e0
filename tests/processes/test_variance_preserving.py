"""Gaussian noise on embeddings: coefficients, heads, the law of its chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from tests.models import FunctionModel, TableEmbedder
from textdiffusion.core.numerics import match_ranks
from textdiffusion.core.types import (
  X0,
  Cavity,
  Eps,
  Facts,
  Velocity,
)
from textdiffusion.objectives.nelbo import step_bound
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  to_eps,
  to_velocity,
  to_x0,
)
from textdiffusion.samplers.base import Canvas
from textdiffusion.samplers.latent import DDIM, DPMSolver, LatentChain
from textdiffusion.schedules.noise import CosineSquared, Linear
from textdiffusion.schedules.times import snapped
from textdiffusion.schedules.variances import SquareRoot, tabulated

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)
# Made within the tests, where tables are float64.
PROCESSES = {
  'sqrt': lambda: VariancePreserving(tabulated(SquareRoot(), 2000)),
  'linear': lambda: VariancePreserving(Linear()),
  'cosine': lambda: VariancePreserving(CosineSquared()),
}


class Embedded:
  """A law over six sequences of two tokens, embedded in four dimensions."""

  def __init__(self, seed=0):
    draw = np.random.default_rng(seed)
    table = draw.normal(size=(5, 4))
    self.x0 = jnp.asarray(table[draw.integers(0, 5, (6, 2))])  # [N, L, D]
    self.log_p = jnp.log(draw.dirichlet(np.full(6, 2.0)))

  def posterior(self, p, x, t):
    """[B, L, D] -> log p(n | x_t), [B, N]."""
    level = p.schedule(t)
    x0, level = match_ranks(self.x0[None], level)  # [B, N, L, D]
    mean = jnp.exp(0.5 * level.log_alpha) * x0
    distance = jnp.square(x[:, None] - mean).sum((-1, -2))
    log_q = -0.5 * distance * jnp.exp(-level.log_1m_alpha[..., 0, 0])
    return jax.nn.log_softmax(self.log_p[None] + log_q)

  def denoise(self, p, x, t):
    """E(x0 | x_t), [B, L, D]."""
    weights = jnp.exp(self.posterior(p, x, t))
    return X0(jnp.einsum('bn,nld->bld', weights, self.x0))


@pytest.mark.parametrize('name', PROCESSES)
def test_heads_say_the_same(name):
  p, t = PROCESSES[name](), jnp.asarray([0.01, 0.4, 0.9])
  keys = jax.random.split(KEY, 2)
  x0, noise = (np.asarray(jax.random.normal(key, (3, 4))) for key in keys)

  @jax.jit
  def heads():
    q = p.marginal(x0, t)
    xt = q.mean + q.std * noise
    velocity = to_velocity(p, X0(x0), xt, t)
    others = [
      (to_eps(p, head, xt, t).value, to_x0(p, head, xt, t).value)
      for head in (X0(x0), velocity, Eps(noise))
    ]
    return q.mean, q.std, xt, velocity, others

  mean, std, xt, velocity, others = jax.tree.map(np.asarray, heads())
  want = mean / x0 * noise - std * x0
  np.testing.assert_allclose(velocity.value, want, rtol=1e-7)
  for eps, clean in others:
    np.testing.assert_allclose(eps, noise, rtol=1e-7)
    np.testing.assert_allclose(clean, x0, rtol=1e-9)
  assert isinstance(velocity, Velocity)
  with pytest.raises(TypeError, match='X0, Eps or Velocity heads, not Cavity'):
    p.bridge(Cavity(x0), xt, 0.1, 0.5)


@pytest.mark.parametrize('name', PROCESSES)
@pytest.mark.parametrize('s, t', [(0.1, 0.101), (0.2, 0.9), (0.0, 0.5)])
def test_bridge_is_bayes_rule(name, s, t):
  """q(x_s | x_t, x0) q(x_t | x0) = q(x_t | x_s) q(x_s | x0), densities."""
  p = PROCESSES[name]()
  x0, xs, xt = jax.random.normal(KEY, (3, 5, 1))
  if s == 0:
    at_end = p.bridge(X0(x0), xt, s, t)
    np.testing.assert_allclose(at_end.mean, x0, atol=1e-12)
    assert (at_end.std == 0).all()
    return
  now, then = p.schedule(s), p.schedule(t)
  keep = jnp.exp(then.log_alpha - now.log_alpha)
  keep = keep[None]
  forward = type(p.prior())(jnp.sqrt(keep) * xs, jnp.sqrt(1 - keep))
  left = p.bridge(X0(x0), xt, s, t).log_prob(xs)
  left += p.marginal(x0, t).log_prob(xt)
  right = forward.log_prob(xt) + p.marginal(x0, s).log_prob(xs)
  np.testing.assert_allclose(left, right, rtol=1e-6)


@pytest.mark.parametrize('name', PROCESSES)
@pytest.mark.parametrize('eta', [0.0, 0.5, 1.0])
def test_steps_keep_the_marginal(name, eta):
  """Given x0, x_s has the mean and variance of q_s for any eta; with eta = 0
  any way down is the same jump."""
  p, s, t = PROCESSES[name](), 0.2, 0.7
  x0, noise = jax.random.normal(KEY, (2, 5, 1))
  q, want = p.marginal(x0, t), p.marginal(x0, s)
  step = p.bridge(X0(x0), q.mean + q.std * noise, s, t, eta)
  slope = (step.mean - want.mean) / noise
  variance = slope**2 + step.std**2
  np.testing.assert_allclose(variance, want.std**2 + 0 * variance, rtol=1e-9)
  if eta == 0:
    middle = p.bridge(X0(x0), q.mean + q.std * noise, 0.5, t, 0.0).mean
    again = p.bridge(X0(x0), middle, s, 0.5, 0.0).mean
    np.testing.assert_allclose(again, step.mean, rtol=1e-9)
    back = p.bridge(X0(x0), step.mean, t, s, 0.0).mean
    np.testing.assert_allclose(back, q.mean + q.std * noise, rtol=1e-9)


def test_clean_features_stay_to_the_bit():
  """A source, t_i = 0, at every step and for every kind of it."""
  p = PROCESSES['sqrt']()
  x = np.asarray(jax.random.normal(KEY, (4, 3)))
  wrong = X0(jnp.full((4, 3), 7.0))
  t = jnp.asarray([0.0, 0.5, 0.0, 1.0])
  draw = jax.jit(
    lambda eta, variance: p.bridge(wrong, x, 0.4 * t, t, eta, variance).sample(
      KEY
    ),
    static_argnums=(0, 1),
  )
  for eta in (0.0, 1.0):
    for variance in ('small', 'large'):
      drawn = np.asarray(draw(eta, variance))
      np.testing.assert_array_equal(drawn[::2], x[::2])
      assert (drawn[1::2] != x[1::2]).all() and np.isfinite(drawn).all()


def ends(steps, eta=0.0, published=False, rows=2000):
  """Squared distances [rows, 6] of the ends of chains from the law's sequences.

  The denoiser is exact. `published` takes the times of `steps` steps but the
  coefficients of one step of 2,000, as DiffuSeq's code does.
  """
  p, law = PROCESSES['sqrt'](), Embedded()
  grid = snapped(jnp.linspace(1, 0, steps + 1), 2000)

  def transition(head, x, s, t):
    if published:
      s = t - 1 / 2000
    return p.bridge(head, x, s, t, eta)

  @jax.jit
  def chain(x):
    def step(x, inputs):
      key, t, s = inputs
      return transition(law.denoise(p, x, t), x, s, t).sample(key), None

    keys = jax.random.split(KEY, steps)
    return jax.lax.scan(step, x, (keys, grid[:-1], grid[1:]))[0]

  x = chain(jax.random.normal(KEY, (rows, 2, 4)))
  ends = np.asarray(x)[:, None]
  return np.square(ends - np.asarray(law.x0)).sum((-1, -2))


@pytest.mark.parametrize('steps', [10, 50, 200])
@pytest.mark.parametrize('eta', [0.0, 1.0])
def test_chains_follow_the_law_at_any_stride(steps, eta):
  """The exact denoiser at `steps` of 2,000: nearest sequences by chi-square,
  false alarm 1e-5, and next to no distance to them."""
  law, distance = Embedded(), ends(steps, eta)
  assert distance.min(1).mean() < 0.3
  counts = np.bincount(distance.argmin(1), minlength=6)
  want = len(distance) * np.exp(law.log_p)
  value = ((counts - want) ** 2 / want).sum()
  assert value < chi2.ppf(1 - 1e-5, 5), (counts, want)


def test_the_published_stride_needs_every_step():
  """With the exact denoiser it ends far from every sequence unless it takes all
  2,000 steps, where both are one chain."""
  mean = lambda *args: float(ends(*args, rows=100).min(1).mean())
  assert mean(50, 0.0, True) > 5 > 0.1 > mean(50)
  np.testing.assert_allclose(mean(2000, 0.0, True), mean(2000), atol=1e-6)


def test_the_second_order_solver_is_of_second_order():
  """Of normal data the flow is a scaling, known exactly: the error falls by 4
  where steps double, and that of DDIM by 2."""
  p, variance, t, s = PROCESSES['linear'](), 0.3, 0.95, 0.1
  level = lambda time: jnp.exp(p.schedule(time).log_alpha)
  spread = lambda time: 1 + level(time) * (variance - 1)

  def denoise(x, t):  # E(x0 | x_t)
    return X0(jnp.sqrt(level(t)) * variance / spread(t) * x)

  table = TableEmbedder(jnp.zeros((1, 4)))
  model = FunctionModel(denoise, p, Facts(embedder=table))
  samplers = {'ddim': DDIM(), 'solver': DPMSolver()}
  x = jax.random.normal(KEY, (50, 2, 4))
  exact = x * jnp.sqrt(spread(s) / spread(t))[0]

  def error(name, steps):
    sampler, grid = samplers[name], jnp.linspace(t, s, steps + 1)
    keys, free = jax.random.split(KEY, len(x)), jnp.zeros(x.shape[:2], int)

    def step(carry, times):
      then, now = (jnp.full(free.shape, time) for time in times)
      return sampler.step(keys, model, carry, now, then), None

    start = LatentChain(x, 0 * x, 0.0 * free + 1, 0, Canvas(free, free > 0))
    run = jax.jit(lambda c: jax.lax.scan(step, c, (grid[:-1], grid[1:]))[0])
    return float(jnp.abs(run(start).x - exact).mean())

  errors = {name: [error(name, n) for n in (50, 100)] for name in samplers}
  falls = {name: one / two for name, (one, two) in errors.items()}
  assert 1.9 < falls['ddim'] < 2.1 and 3.7 < falls['solver'] < 4.3, errors
  assert errors['solver'][1] < 0.1 * errors['ddim'][1], errors


def test_bound_of_the_exact_denoiser_comes_to_the_entropy():
  """Prior, steps and decoder of T = 20 and 200: at least the entropy, and ten
  times nearer with the finer grid. 5 standard errors of 4,000 rows."""
  law, gaps = Embedded(), []
  entropy = -(jnp.exp(law.log_p) * law.log_p).sum()
  picked = jax.random.categorical(KEY, law.log_p, shape=(4000,))
  x0 = law.x0[picked]
  for size in (20, 200):
    p = VariancePreserving(tabulated(SquareRoot(), size))

    def nats(key, i, p=p, size=size):
      s, t = i / size, (i + 1) / size
      xt = p.corrupt(key, x0, t)
      return step_bound(p, x0, law.denoise(p, xt, t), xt, s, t).sum((1, 2))

    def total(p=p, size=size, nats=nats):
      keys = jax.random.split(KEY, size)
      each = lambda i: nats(keys[i], i)
      steps = jax.lax.map(each, jnp.arange(1, size)).sum(0)
      last = p.corrupt(keys[0], x0, 1 / size)
      posterior = law.posterior(p, last, 1 / size)
      decoder = -jnp.take_along_axis(posterior, picked[:, None], 1)[:, 0]
      prior = p.marginal(x0, 1.0).kl(p.prior()).sum((1, 2))
      return steps + decoder + prior + law.log_p[picked] + entropy

    rows = jax.jit(total)()  # log p added and taken off: less variance
    gaps.append(float(rows.mean() - entropy))
    error = float(rows.std() / 4000**0.5)
    assert gaps[-1] > -5 * error
  assert gaps[1] < 0.2 * gaps[0] + 5 * error
