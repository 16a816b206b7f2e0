"""The bound with the exact denoiser is -log p; a wrong head leaves a gap."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import student
from tests.oracle import PROCESSES, Law, gauss_legendre, sequences
from textdiffusion.core.types import (
  X0,
  Batch,
  Cavity,
)
from textdiffusion.objectives.nelbo import (
  Nelbo,
  masked_bound,
  prior_bound,
  rate_bound,
  step_bound,
)
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.schedules.noise import (
  Cosine,
  Linear,
  LinearSigma,
  Polynomial,
)

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')


def integrated(process, law, head_of, bound=rate_bound, nodes=64):
  """[N] expected bound of every clean sequence."""
  states = sequences(process.num_states, law.length)
  times, weights = gauss_legendre(nodes)

  def at(x0, t):
    log_q = process.marginal(x0, t).log_prob(states).sum(-1)
    per_z = jax.vmap(lambda z: bound(process, x0, head_of(z, t), z, t).sum())(
      states
    )
    return jnp.where(log_q > -jnp.inf, jnp.exp(log_q) * per_z, 0.0).sum()

  values = jax.lax.map(lambda t: jax.vmap(lambda x0: at(x0, t))(law.ids), times)
  return weights @ values


@pytest.mark.parametrize('name', PROCESSES)
@pytest.mark.parametrize('length', [2, 3])
def test_bound_with_the_exact_denoiser_is_minus_log_p(name, length):
  process = PROCESSES[name](3)
  law = Law(process, length)
  bound, prior = jax.jit(
    lambda: (
      integrated(process, law, law.cavity),
      prior_bound(process, law.ids),
    )
  )()
  np.testing.assert_allclose(bound, -law.log_p, atol=2e-5)
  np.testing.assert_allclose(prior, 0, atol=1e-9)


def test_masked_bound_is_exact_too():
  process = PROCESSES['absorbing-cosine'](3)
  law = Law(process, 3)
  bound = jax.jit(lambda: integrated(process, law, law.cavity, masked_bound))()
  np.testing.assert_allclose(bound, -law.log_p, atol=2e-5)


def test_posterior_is_converted_and_a_mislabelled_head_leaves_a_gap():
  process = PROCESSES['uniform'](3)
  law = Law(process, 2)
  mislabelled = lambda z, t: Cavity(law.posterior(z, t).logits)
  mean = lambda head: jnp.exp(law.log_p) @ integrated(process, law, head)
  right, wrong = jax.jit(lambda: (mean(law.posterior), mean(mislabelled)))()
  assert abs(right - law.entropy) < 1e-5
  assert wrong - law.entropy > 0.1


@pytest.mark.parametrize('name', PROCESSES)
def test_finite_steps_bound_the_entropy_and_tighten(name):
  """Sum of step bounds over T = 4 and 32 with the exact denoiser: above the
  entropy, and nearer with more steps. (The last step is the reconstruction.)"""
  process = PROCESSES[name](3)
  law = Law(process, 2)
  states = sequences(process.num_states, 2)

  @jax.jit
  def gap(num_steps):
    def at(i, total):
      s, t = i / num_steps, (i + 1) / num_steps

      def of(x0):
        log_q = process.marginal(x0, t).log_prob(states).sum(-1)
        kl = jax.vmap(
          lambda z: step_bound(process, x0, law.cavity(z, t), z, s, t).sum()
        )(states)
        return jnp.where(log_q > -jnp.inf, jnp.exp(log_q) * kl, 0.0).sum()

      return total + jnp.exp(law.log_p) @ jax.vmap(of)(law.ids)

    return jax.lax.fori_loop(0, num_steps, at, 0.0) - law.entropy

  few, many = gap(4), gap(32)
  assert few > many > -1e-9
  assert many < few / 3


@pytest.mark.parametrize('mask_id', [0, 3, 7])
def test_masked_bound_is_the_rate_bound(mask_id):
  process = absorbing(8, mask_id, Cosine(1e-3))
  rng = np.random.default_rng(0)
  x0 = rng.integers(0, 7, (4, 6))
  x0 += x0 >= mask_id
  corrupt = jax.jit(lambda: process.corrupt(jax.random.key(0), x0, 0.5))
  z = np.asarray(corrupt())
  logits = 3 * rng.normal(size=(4, 6, 8))
  t = np.array([0.01, 0.3, 0.7, 1.0])[:, None]
  values, grads = [], []
  for bound in (rate_bound, masked_bound):

    def loss(logits, bound=bound):
      nats = bound(process, x0, Cavity(logits), z, t)
      return nats.sum(), nats

    of = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (_, nats), grad = of(logits)
    values.append(nats)
    grads.append(grad)
  np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(*grads, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('bound', [masked_bound, rate_bound])
@pytest.mark.parametrize('eps', [0.0, 1e-3])
@pytest.mark.parametrize('scale', [1.0, 200.0])
def test_loss_and_gradients_are_finite_in_float32(bound, eps, scale):
  process = absorbing(8, 7, Polynomial(1.0, eps))
  key = jax.random.key(0)
  x0 = jax.random.randint(key, (3, 6), 0, 7)
  last = 1.0 if eps or bound is masked_bound else 0.999
  t = jnp.array([0.0, 0.5, last])
  z = jax.vmap(process.corrupt)(jax.random.split(key, 3), x0, t)
  logits = scale * jax.random.normal(key, (3, 6, 8), dtype=jnp.float32)

  @jax.jit
  @jax.value_and_grad
  def loss(logits):
    return bound(process, x0, Cavity(logits), z, t[:, None]).sum()

  value, grad = loss(logits)
  assert jnp.isfinite(value) and jnp.isfinite(grad).all()


def batch_of(ids):
  # From NumPy, as every length would compile a few graphs of jnp.
  ones, zeros = (jnp.asarray(f(ids.shape, int)) for f in (np.ones, np.zeros))
  rows = np.arange(len(ids))
  u = (rows + 0.5) / len(ids)
  return Batch(ids, ones, zeros, jnp.asarray(rows), jnp.asarray(u))


@pytest.mark.parametrize('num_steps', [0, 2])
def test_objective_is_a_mean_of_the_bound_over_draws(num_steps):
  """Mean over 20,000 rows against the entropy (num_steps: and its gap), within
  5 standard errors: false alarm below 1e-6."""
  process = PROCESSES['absorbing'](3)
  law = Law(process, 2)
  rows = 20_000
  key = jax.random.key(3)
  ids = law.ids[jax.random.categorical(key, law.log_p, shape=(rows,))]
  objective = Nelbo(masked_bound, num_steps)
  loss, terms = jax.jit(
    lambda: objective(student(law.denoise, process), key, batch_of(ids))
  )()
  loss = np.asarray(loss)
  assert loss.shape == ids.shape
  assert set(terms) == {'diffusion', 'prior', 'reconstruction'}
  total = loss.sum(-1)
  error = float(total.std() / rows**0.5)
  gap = float(total.mean() - law.entropy)
  assert -5 * error < gap < 5 * error + (1.0 if num_steps else 0)
  if num_steps:
    assert gap > 5 * error  # coarse steps cost something


@pytest.mark.parametrize('name', ['absorbing', 'uniform'])
def test_signal_left_at_the_end_and_noise_at_the_start_are_counted(name):
  """A schedule that keeps 5% of the signal and begins with 10% of noise: with
  both ends the exact denoiser's sum is above -log p, and without them below."""
  make = {
    'absorbing': lambda s: absorbing(4, 1, s),
    'uniform': lambda s: uniform(4, s, mask_id=1),
  }[name]
  process = make(LinearSigma(0.1, 3.0))
  law = Law(process, 2)
  states, x0 = np.arange(4), np.array([0])

  @jax.jit
  def terms():
    inner = jnp.exp(law.log_p) @ integrated(process, law, law.cavity)
    return (
      inner,
      prior_bound(process, jnp.array(0)),
      process.decoder_bound(),
      jnp.exp(process.marginal(x0, 0.0).log_probs[0]),
      jnp.exp(process.likelihood(states, 0.0)),
      jnp.exp(process.schedule(0.0).log_1m_alpha[0]),
      jnp.exp(process.schedule(1.0).log_alpha[0]),
    )

  inner, prior, decoder, q, likelihood, noise, signal = map(np.array, terms())
  ends = prior + decoder
  assert inner < law.entropy < inner + law.length * ends

  # The decoder term against its definition, over the table of tokens.
  likelihood[:, 1] = 0.0
  q, likelihood = q[q > 0], likelihood[q > 0]
  want = -(q * np.log(likelihood[:, 0] / likelihood.sum(1))).sum()
  np.testing.assert_allclose(decoder, want, rtol=1e-12)
  # MD4, appendix J.1; and masks of t = 1 that an even guess would reveal.
  if name == 'absorbing':
    np.testing.assert_allclose(want, noise * np.log(3.0), rtol=1e-12)
    np.testing.assert_allclose(prior, signal * np.log(3.0), rtol=1e-12)


@pytest.mark.parametrize('num_steps', [0, 4])
def test_the_objective_adds_both_ends(num_steps):
  """Under a schedule that has both, each is a term and part of the total."""
  process = uniform(4, LinearSigma(0.1, 1.5), mask_id=1)
  batch = batch_of(Law(process, 2).ids)
  model = student(lambda x, t: Cavity(jnp.zeros((*x.shape, 4))), process)
  objective = Nelbo(num_steps=num_steps)
  nats, terms = jax.jit(lambda key: objective(model, key, batch))(
    jax.random.key(0)
  )
  assert set(terms) == {'diffusion', 'prior', 'reconstruction'}
  np.testing.assert_allclose(nats, sum(terms.values()), rtol=1e-12)
  prior, decoder = prior_bound(process, batch.ids), process.decoder_bound()
  assert prior.min() > 0.01 and decoder > 0.01
  np.testing.assert_allclose(terms['prior'], prior, rtol=1e-9)
  np.testing.assert_allclose(terms['reconstruction'], decoder, rtol=1e-9)


@pytest.mark.parametrize('name', PROCESSES)
def test_proper_schedules_have_no_ends(name):
  process = PROCESSES[name](3)
  token = Law(process, 1).tokens[:1]
  prior, decoder = jax.jit(
    lambda: (prior_bound(process, token), process.decoder_bound())
  )()
  np.testing.assert_allclose(prior, 0, atol=1e-12)
  assert decoder == 0


def test_a_foreign_head_is_refused():
  process = absorbing(4, 3, Linear())
  z = jnp.full(6, 3)
  with pytest.raises(TypeError, match='not X0'):
    masked_bound(process, z, X0(jnp.zeros((6, 4))), z, 0.5)
  with pytest.raises(TypeError, match='RankOne takes Cavity'):
    rate_bound(process, z * 0, X0(jnp.zeros((6, 4))), z, 0.5)
