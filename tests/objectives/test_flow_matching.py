"""What the flow's losses bound, how tightly, and where they are least."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import student
from tests.objectives.test_nelbo import batch_of, integrated
from tests.oracle import PROCESSES, Law, law_of_chain
from textdiffusion.core.types import (
  X0,
  UserError,
)
from textdiffusion.objectives.flow_matching import (
  FlowMatching,
  cross_entropy,
  flow_bound,
)
from textdiffusion.objectives.nelbo import masked_bound, rate_bound
from textdiffusion.processes.bridge import restricted_posterior
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers.flow import flow
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Cosine, Linear, Power

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)


def law_with(process, length, p):
  law = Law(process, length)
  law.log_p = jnp.log(jnp.asarray(p, float) / np.sum(p))
  return law


def gap(law, bound=flow_bound, head_of=None):
  """Expected bound less the entropy, nats a sequence."""
  bounds = integrated(law.process, law, head_of or law.posterior, bound)
  return float(jnp.exp(law.log_p) @ bounds - law.entropy)


@pytest.mark.parametrize('mask_id', [0, 7])
def test_of_a_mask_source_it_is_the_masked_bound(mask_id):
  process = absorbing(8, mask_id, Cosine())
  x0 = jax.random.randint(KEY, (4, 6), 0, 7)
  x0 += x0 >= mask_id
  t = jnp.array([0.01, 0.3, 0.7, 1.0])[:, None]
  z = process.corrupt(KEY, x0, t)
  raw = 3 * jax.random.normal(KEY, (4, 6, 8))
  values, grads = [], []
  for bound in (flow_bound, masked_bound):

    @jax.jit
    def loss(raw, bound=bound):
      nats = bound(process, x0, restricted_posterior(process, raw, z, t), z, t)
      return nats.sum(), nats

    (_, nats), grad = jax.value_and_grad(loss, has_aux=True)(raw)
    values.append(nats)
    grads.append(grad)
  np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(*grads, rtol=1e-8, atol=1e-10)


def test_of_a_mask_source_it_is_tight():
  process = PROCESSES['absorbing-cosine'](3)
  law = Law(process, 2)
  bound = integrated(process, law, law.posterior, flow_bound)
  np.testing.assert_allclose(bound, -law.log_p, atol=2e-5)


@pytest.mark.parametrize('schedule', [Linear(), Power(2.0), Cosine()])
def test_of_uniform_noise_even_the_exact_posterior_leaves_a_gap(schedule):
  """Two tokens of three, the second the first again with chance 0.86: 0.575
  nats, whatever the schedule. The bound of the reverse bridge, from the same
  posterior, leaves none."""
  process = uniform(3, schedule)
  law = law_with(process, 2, np.where(np.eye(3), 0.86, 0.07).ravel())
  np.testing.assert_allclose(gap(law), 0.575, atol=5e-4)
  assert abs(gap(law, rate_bound)) < 2e-5


@pytest.mark.parametrize('size', [2, 3, 8])
def test_the_gap_of_an_even_token(size):
  law = law_with(uniform(size, Linear()), 1, np.ones(size))
  want = 1 - (1 + np.log(size)) / size
  np.testing.assert_allclose(gap(law), want, atol=1e-6)


def test_a_certain_token_leaves_no_gap():
  law = Law(uniform(3, Linear()), 1)
  law.log_p = jnp.array([-jnp.inf, 0.0, -jnp.inf])
  bound = integrated(law.process, law, law.posterior, flow_bound)
  np.testing.assert_allclose(bound[1], 0, atol=1e-9)


@pytest.mark.parametrize('name', ['absorbing', 'uniform'])
def test_each_bound_bounds_the_law_of_its_own_sampler(name):
  """A posterior that is wrong; 300 steps of the chain."""
  process = PROCESSES[name](3)
  law = Law(process, 2)
  size = process.num_states
  table = jax.random.normal(KEY, (size, size, 2, size))

  def head_of(z, t):
    mixed = 0.5 * table[z[0], z[1]] + law.posterior(z, t).logits
    return restricted_posterior(process, mixed, z, t)

  grid = jnp.sin(jnp.pi / 2 * grids.uniform(300)) ** 2
  place = (law.ids * size ** jnp.arange(2)[None, ::-1]).sum(-1)
  for bound, transition in ((flow_bound, flow(process)), (rate_bound, None)):
    chain = jax.jit(
      lambda t, f=transition: law_of_chain(process, head_of, 2, t, f)
    )(grid)
    nats = -jnp.log(chain[place])
    slack = integrated(process, law, head_of, bound) - nats
    assert slack.min() > -2e-3  # the chain's own error, 1 / T
    assert slack.mean() > 0.01


@pytest.mark.parametrize('loss', [flow_bound, cross_entropy])
@pytest.mark.parametrize(
  'name', ['absorbing', 'uniform', 'uniform-beside-mask']
)
def test_the_posterior_is_the_optimum(loss, name):
  """Averaged over what x0 may be, given z, the gradient is zero there; at the
  cavity of uniform noise it is not."""
  process = PROCESSES[name](3)
  law, t = Law(process, 2), 0.4
  z = jnp.asarray(law.tokens)[jnp.array([0, 2])]
  if process.is_absorbing:
    z = z.at[0].set(process.mask_id)
  joint = jnp.take_along_axis(process.likelihood(z, t), law.ids.T, 1).sum(0)
  weights = jax.nn.softmax(joint + law.log_p)

  def expected(raw):
    head = restricted_posterior(process, raw, z, t)
    each = jax.vmap(lambda x0: loss(process, x0, head, z, t).sum())(law.ids)
    return jnp.where(
      weights > 0, weights * jnp.where(weights > 0, each, 0), 0
    ).sum()

  floor = lambda head: jnp.maximum(head.logits, -50.0)
  gradient = jax.jit(jax.grad(expected))
  at_posterior = gradient(floor(law.posterior(z, t)))
  np.testing.assert_allclose(at_posterior, 0, atol=1e-9)
  if name == 'uniform':
    at_cavity = gradient(floor(law.cavity(z, t)))
    assert abs(at_cavity).max() > 0.01


def test_any_head_is_taken_and_a_foreign_one_refused():
  process = PROCESSES['uniform'](3)
  law, z, t = Law(process, 2), jnp.array([0, 2]), 0.4
  x0 = jnp.array([0, 1])
  for loss in (flow_bound, cross_entropy):
    np.testing.assert_allclose(
      loss(process, x0, law.cavity(z, t), z, t),
      loss(process, x0, law.posterior(z, t), z, t),
      rtol=1e-9,
    )
    with pytest.raises(TypeError, match='RankOne takes Cavity'):
      loss(process, x0, X0(jnp.zeros((2, 3))), z, t)


@pytest.mark.parametrize('loss', [flow_bound, cross_entropy])
@pytest.mark.parametrize(
  'name', ['absorbing', 'uniform', 'uniform-beside-mask']
)
def test_float32_is_near_float64_and_has_finite_gradients(loss, name):
  process = PROCESSES[name](7)
  tokens = jnp.asarray(Law(process, 1).tokens)
  x0 = tokens[jax.random.randint(KEY, (4, 6), 0, 7)]
  x0 = x0.at[:, -1].set(process.mask_id or 0)  # padding may be the mask
  t = np.array([1e-4, 0.3, 0.9, 1.0], np.float32)[:, None]
  z = process.corrupt(KEY, x0, t)
  raw = 30 * jax.random.normal(KEY, (4, 6, process.num_states))

  def value_and_grad(raw, dtype):
    z_, x_ = jnp.asarray(np.asarray(z)), jnp.asarray(np.asarray(x0))
    time = jnp.asarray(t, dtype)

    def of(raw):
      nats = loss(
        process, x_, restricted_posterior(process, raw, z_, time), z_, time
      )
      return nats[:, :-1].sum(), nats

    (_, nats), grad = jax.jit(jax.value_and_grad(of, has_aux=True))(raw)
    assert jnp.isfinite(nats).all() and jnp.isfinite(grad).all()
    return nats[:, :-1]

  raw = raw.astype(jnp.float32)
  exact = value_and_grad(raw.astype(jnp.float64), jnp.float64)
  with jax.enable_x64(False):
    near = value_and_grad(jnp.asarray(np.asarray(raw)), jnp.float32)
  # Of the largest logit, 100, float32 keeps 1e-5; the weight is up to 1 / t.
  scale = np.where(loss is flow_bound, 1 / t, 1.0)
  assert (abs(near - exact) <= 1e-5 * (abs(exact) + scale)).all()


def test_prompts_are_prefixes_of_a_share_of_the_rows():
  """1,000 rows: the share within 5 standard errors, false alarm 1e-6."""
  process = uniform(5, Linear())
  rows, length = 1000, 6
  ids = jax.random.randint(KEY, (rows, length), 0, 5)
  told: list = []

  def denoise(x, t):
    told.append((x, t))
    raw = jnp.zeros((*x.shape, 5))
    return restricted_posterior(process, raw, x, t)

  objective = FlowMatching(flow_bound, prompt_rate=0.3)
  call = jax.jit(
    lambda batch: (objective(student(denoise, process), KEY, batch), told.pop())
  )
  (nats, terms), (x, t) = call(batch_of(ids))
  is_given = np.asarray(t == 0)
  assert nats.shape == ids.shape and set(terms) == {'flow'}
  assert (np.diff(is_given.astype(int), axis=1) <= 0).all()  # prefixes
  assert not is_given[:, -1].any()
  np.testing.assert_array_equal(x[is_given], ids[is_given])
  np.testing.assert_array_equal(nats[is_given], 0)
  assert (nats[~is_given] > 0).all()
  share = is_given[:, 0].mean()
  assert abs(share - 0.3) < 5 * np.sqrt(0.3 * 0.7 / rows)
  assert set(is_given.sum(1)) == set(range(length))
  part = jax.tree.map(lambda x: x[7:9], batch_of(ids))
  (alone, _), _ = call(part)
  np.testing.assert_array_equal(alone, nats[7:9])


def test_gradients_with_prompts_are_finite():
  """At a prompt's own time the weight 1 / t would be infinite."""
  process = uniform(5, Linear())
  ids = jax.random.randint(KEY, (8, 4), 0, 5)

  def loss(raw):
    denoise = lambda x, t: restricted_posterior(process, raw[x], x, t)
    objective = FlowMatching(flow_bound, prompt_rate=1.0)
    return objective(student(denoise, process), KEY, batch_of(ids))[0].sum()

  grad = jax.jit(jax.grad(loss))(jax.random.normal(KEY, (5, 5)))
  assert jnp.isfinite(grad).all() and abs(grad).max() > 0


def test_it_reports_no_likelihood():
  assert FlowMatching().estimand == 'surrogate'
  with pytest.raises(UserError, match='prompt_rate=1.5: must be'):
    FlowMatching(prompt_rate=1.5)


def test_the_reverse_bridge_jumps_to_x0_faster_than_the_flow():
  """By beta / K: the two share their marginals, not their rates."""
  process, t = PROCESSES['uniform-poly'](4), 0.3
  level = process.schedule(t)
  x0, z = jnp.array([2]), jnp.array([1])
  ratio = process.marginal(x0, t).log_prob(x0) - process.marginal(
    x0, t
  ).log_prob(z)
  reverse = process.rate(z, t)[0, 0] * jnp.exp(ratio[0])
  forward = level.rate * jnp.exp(-level.log_1m_alpha)
  np.testing.assert_allclose(
    reverse, (forward + level.hazard / 4)[0], rtol=1e-12
  )
