"""The bound of learnt noise is tight, and its gradient is that of the mean."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import FunctionModel, student
from tests.objectives.test_nelbo import batch_of, integrated
from tests.oracle import Law, sequences
from tests.processes.test_vector import vector
from textdiffusion.core.types import (
  X0,
  Batch,
  Cavity,
  Posterior,
)
from textdiffusion.objectives.learnt_noise import (
  LearntNoise,
  paired,
  vector_bound,
)
from textdiffusion.objectives.nelbo import masked_bound, rate_bound
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.processes.vector import VectorAbsorbing
from textdiffusion.schedules.noise import Polynomial, PolynomialPerToken

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)


@pytest.mark.parametrize('bound', [vector_bound, rate_bound])
def test_bound_with_the_exact_denoiser_is_minus_log_p(bound):
  law = Law(vector(3), 2)
  for head_of in (law.posterior, law.cavity):
    value = integrated(law.process, law, head_of, bound)
    np.testing.assert_allclose(value, -law.log_p, atol=2e-5)


def test_a_mislabelled_head_leaves_a_gap():
  law = Law(vector(3), 2)
  wrong = lambda z, t: Cavity(law.posterior(z, t).logits)
  value = integrated(law.process, law, wrong, vector_bound)
  assert jnp.exp(law.log_p) @ value - law.entropy > 0.05


@pytest.mark.parametrize('kind', [Posterior, Cavity])
def test_vector_bound_is_the_rate_bound(kind):
  process = vector(7)
  x0 = jnp.asarray(Law(process, 1).tokens)[
    jax.random.randint(KEY, (4, 6), 0, 7)
  ]
  z = process.corrupt(KEY, x0, 0.6)
  logits = 3 * jax.random.normal(KEY, (4, 6, 8))
  t = jnp.array([0.01, 0.3, 0.7, 0.999])[:, None]
  values, grads = [], []
  for bound in (rate_bound, vector_bound):

    def loss(logits, power, bound=bound):
      now = VectorAbsorbing(PolynomialPerToken(power), 8, 1)
      nats = bound(now, x0, kind(logits), z, t)
      return nats.sum(), nats

    grad = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    slopes, nats = grad(logits, process.schedule.power)
    values.append(nats)
    grads.append(slopes)
  np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12)
  chex.assert_trees_all_close(*grads, rtol=1e-8, atol=1e-10)


def test_equal_powers_leave_the_masked_bound():
  process, same = vector(7, 2.0, 2.0), absorbing(8, 1, Polynomial(2.0))
  x0 = jnp.asarray(Law(process, 1).tokens)[
    jax.random.randint(KEY, (4, 6), 0, 7)
  ]
  z = process.corrupt(KEY, x0, 0.6)
  head = Posterior(jax.random.normal(KEY, (4, 6, 8)))
  np.testing.assert_allclose(
    vector_bound(process, x0, head, z, 0.6),
    masked_bound(same, x0, head, z, 0.6),
    rtol=1e-12,
  )


@pytest.mark.parametrize('t', [1e-6, 0.5, 1.0])
def test_loss_and_gradients_hold_in_float32(t):
  """Also where t^power is no float32: 1e-6 to the 13th. Within 1e-5 of
  float64, relative to the terms that are added."""
  logits = 200 * jax.random.normal(KEY, (6, 8))
  power = jnp.linspace(0.3, 13.0, 8)
  x0 = jnp.array([0, 2, 3, 4, 5, 7])
  z = jnp.array([1, 2, 1, 1, 5, 1])

  def loss(logits, power, dtype):
    power = power.astype(dtype)
    now = VectorAbsorbing(PolynomialPerToken(power), 8, 1)
    time = jnp.asarray(t, dtype)
    return vector_bound(now, x0, Posterior(logits.astype(dtype)), z, time).sum()

  value = lambda dtype: jax.jit(
    jax.value_and_grad(lambda *x: loss(*x, dtype), (0, 1))
  )(logits, power)
  single, grads = value('float32')
  double, wants = value('float64')
  np.testing.assert_allclose(single, double, rtol=1e-5)
  for grad, want in zip(grads, wants, strict=True):
    np.testing.assert_allclose(
      grad, want, rtol=1e-5, atol=1e-5 * abs(want).max()
    )


def table_of(theta):
  """A network that looks rows of two up: [3, 3, L, K] logits."""
  return lambda z, t: Posterior(theta[z[:, 0], z[:, 1]])


@pytest.mark.parametrize('is_counted', [[1, 1], [1, 0]])
def test_the_gradient_of_two_draws_is_that_of_the_enumerated_mean(is_counted):
  """All pairs of draws, weighted by their probabilities: no Monte Carlo. What
  is not counted (padding) is not seen by the network either."""
  x0, t = jnp.array([0, 2]), 0.4
  states = sequences(3, 2)
  z = states[((states == 1) | (states == x0[None])).all(-1)]
  one, two = (jnp.asarray(x) for x in np.mgrid[:4, :4].reshape(2, -1))
  theta = jax.random.normal(KEY, (3, 3, 2, 3))
  if not is_counted[1]:
    theta = jnp.broadcast_to(theta[:, :1], theta.shape)
  power = jnp.array([0.8, 1.0, 2.2])
  segments = jnp.tile(jnp.array(is_counted), (16, 1))
  ids = jnp.tile(x0, (16, 1))
  rows = jnp.arange(16)
  batch = Batch(ids, segments, segments * 0, rows, rows / 16)
  process_at = lambda power: VectorAbsorbing(PolynomialPerToken(power), 3, 1)
  weights = lambda p: jnp.exp(p.log_q(z, x0, t).sum(-1))

  def by_pairs(power, theta, draws=2):
    p, model = process_at(power), FunctionModel(table_of(theta))
    chance = jax.lax.stop_gradient(weights(p)[one] * weights(p)[two])
    nats = paired(
      p, model, batch, jnp.full((16, 1), t), jnp.stack([z[one], z[two]])[:draws]
    )
    return (chance[:, None] * jnp.where(segments > 0, nats, 0.0)).sum()

  def enumerated(power, theta):
    p = process_at(power)
    nats = vector_bound(p, x0, table_of(theta)(z, t), z, t)
    return weights(p) @ (nats * jnp.array(is_counted)[None]).sum(-1)

  np.testing.assert_allclose(weights(process_at(power)).sum(), 1, rtol=1e-12)
  both = lambda f: jax.jit(jax.value_and_grad(f, (0, 1)))
  value, grads = both(by_pairs)(power, theta)
  want, slopes = both(enumerated)(power, theta)
  np.testing.assert_allclose(value, want, rtol=1e-12)
  chex.assert_trees_all_close(grads, slopes, rtol=1e-10, atol=1e-12)
  assert slopes[0][1] == 0  # the mask's own power
  # One draw leaves the score's part out.
  naive = jax.jit(jax.grad(lambda power: by_pairs(power, theta, 1)))(power)
  assert jnp.abs(naive - slopes[0]).max() > 0.1


def exact(law):
  """The exact denoiser of rows [B, L] whose times differ."""
  of = lambda z, t: law.posterior(z, t).logits
  return student(lambda x, t: Posterior(jax.vmap(of)(x, t)), law.process)


def mutual_information(law, t):
  """Between x and z at t, [] nats."""
  log_q = lambda x: law.process.marginal(x, t).log_prob(sequences(4, 2)).sum(-1)
  q = jnp.exp(jax.vmap(log_q)(law.ids))
  joint = jnp.exp(law.log_p)[:, None] * q
  return jnp.where(
    joint > 0, joint * jnp.log(q / joint.sum(0)[None]), 0.0
  ).sum()


def test_the_objective_has_the_value_of_the_bound():
  """With the exact denoiser the mean over times in [t1, 1] is what z at t1
  tells of x beyond what it still does at 1 (eps); the ends are closed forms.
  20,000 rows within 5 standard errors: false alarm below 1e-6."""
  law, t1, rows = Law(vector(3, 1.3, 2.5, 0.01), 2), 0.2, 20_000
  process = law.process
  told = mutual_information(law, t1) - mutual_information(law, 1.0)
  ends = process.decoder_nats(law.ids, jnp.asarray(t1))
  ends += process.prior_nats(law.ids)
  want = told + jnp.exp(law.log_p) @ ends.sum(-1)
  assert want > law.entropy

  key = jax.random.key(3)
  ids = law.ids[jax.random.categorical(key, law.log_p, shape=(rows,))]
  objective = LearntNoise(t1)
  loss, terms = jax.jit(lambda batch: objective(exact(law), key, batch))(
    batch_of(ids)
  )
  assert loss.shape == ids.shape
  assert set(terms) == {'diffusion', 'prior', 'reconstruction'}
  np.testing.assert_allclose(sum(terms.values()), loss, rtol=1e-12)
  total = loss.sum(-1)
  assert abs(total.mean() - want) < 5 * total.std() / rows**0.5
  assert total.std() / rows**0.5 < 0.02


def test_two_draws_of_one_time():
  process, seen = vector(3), []

  def denoise(x, t):
    seen.append((x, t))
    return Posterior(jnp.zeros((*x.shape, 4)))

  ids = jnp.zeros((4, 64), int)
  batch = batch_of(ids)
  with jax.disable_jit():
    LearntNoise(0.25)(student(denoise, process), KEY, batch)
  (one, t), (two, same) = seen
  np.testing.assert_array_equal(t, same)
  np.testing.assert_allclose(t[:, 0], 0.25 + 0.75 * batch.u)
  # Chance of equal draws in a row of 64: below 2^-40.
  assert (one != two).any(-1).all()


def test_a_foreign_head_is_refused():
  with pytest.raises(TypeError, match='not X0'):
    z = jnp.ones(6, int)
    vector_bound(vector(3), z * 0, X0(jnp.zeros((6, 4))), z, 0.5)
