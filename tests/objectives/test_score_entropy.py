"""Score entropy is the rate bound of a LogScore head; so is the entropy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models import student
from tests.objectives.test_nelbo import batch_of, integrated
from tests.oracle import PROCESSES, Law
from textdiffusion.core.types import (
  Cavity,
  LogScore,
)
from textdiffusion.objectives.nelbo import (
  Nelbo,
  masked_bound,
  prior_bound,
  rate_bound,
)
from textdiffusion.objectives.score_entropy import LogScoreHead, score_entropy
from textdiffusion.processes.bridge import to_cavity, to_log_score
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.schedules.noise import Geometric, Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)
GRAPHS = {
  'absorbing': lambda k, schedule: absorbing(k, 1, schedule),
  'uniform': lambda k, schedule: uniform(k, schedule),
  'uniform-beside-mask': lambda k, schedule: uniform(k, schedule, mask_id=1),
}


def drawn(process, rows=4, length=6):
  """x0, z, t [rows, 1]: tokens of a process and their noisy selves."""
  token = jnp.asarray(
    [v for v in range(process.num_states) if v != process.mask_id]
  )
  x0 = token[jax.random.randint(KEY, (rows, length), 0, len(token))]
  t = jnp.linspace(0.02, 0.98, rows)[:, None]
  z = jax.vmap(process.corrupt)(jax.random.split(KEY, rows), x0, t)
  return x0, z, t


@pytest.mark.parametrize('name', PROCESSES)
def test_it_is_the_rate_bound_token_by_token(name):
  """In value and gradient; the ratios need not sum to anything."""
  process = PROCESSES[name](7)
  x0, z, t = drawn(process)
  raw = 2 * jax.random.normal(KEY, (*z.shape, process.num_states))
  head = functools.partial(LogScoreHead(process.is_absorbing), process)
  values, grads = [], []
  for bound in (rate_bound, score_entropy):

    @jax.jit
    def loss(raw, bound=bound):
      nats = bound(process, x0, head(raw, z, t), z, t)
      return nats.sum(), nats

    (_, nats), grad = jax.value_and_grad(loss, has_aux=True)(raw)
    values.append(nats)
    grads.append(grad)
  assert (values[0] > 0).any()
  np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(*grads, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('name', ['absorbing', 'uniform'])
def test_the_exact_ratios_bound_to_the_entropy(name, seed):
  process = PROCESSES[name](3)
  law = Law(process, 2, seed)
  head = lambda z, t: to_log_score(process, law.cavity(z, t), z, t)
  bound = integrated(process, law, head, score_entropy)
  np.testing.assert_allclose(bound, -law.log_p, atol=2e-5)
  # A law of the token that is labelled as ratios of the noisy one.
  wrong = lambda z, t: LogScore(law.cavity(z, t).logits)
  gap = integrated(process, law, wrong, score_entropy) + law.log_p
  assert jnp.exp(law.log_p) @ gap > 0.1


@pytest.mark.parametrize('name', GRAPHS)
@pytest.mark.parametrize('schedule', [Linear(1e-3), Geometric(1e-4, 20.0)])
def test_both_schedules_bound_with_both_ends(name, schedule):
  """Above the entropy by no more than the ends, some 1e-3 nats a token; the
  quadrature is off by less than 1e-7."""
  process = GRAPHS[name](4, schedule)
  law = Law(process, 2)
  head = lambda z, t: to_log_score(process, law.cavity(z, t), z, t)
  inner = jnp.exp(law.log_p) @ integrated(process, law, head, score_entropy)
  token = jnp.asarray(law.tokens[0])
  ends = prior_bound(process, token) + process.decoder_bound()
  gap = inner + law.length * ends - law.entropy
  assert -1e-7 < gap < law.length * ends < 5e-3


def test_a_softmax_network_has_the_masked_bound():
  """t-DSE of RADD is MDLM's loss token by token; a network whose ratios do not
  sum to alpha / (1 - alpha) pays for it."""
  process = absorbing(8, 3, Linear(1e-3))
  x0, z, t = drawn(process)
  cavity = Cavity(jax.random.normal(KEY, (*z.shape, 8)))
  score = to_log_score(process, cavity, z, t)
  want = masked_bound(process, x0, cavity, z, t)
  got = score_entropy(process, x0, score, z, t)
  np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
  off = LogScore(score.value + jnp.where(process.is_mask(z), 0.3, 0)[..., None])
  more = score_entropy(process, x0, off, z, t)
  is_masked = process.is_mask(z)
  assert (more > want)[is_masked].all() and (more == want)[~is_masked].all()


@pytest.mark.parametrize('name', GRAPHS)
@pytest.mark.parametrize('schedule', [Linear(1e-3), Geometric(1e-4, 20.0)])
def test_float32(name, schedule):
  """Within 1e-5 of float64, with finite gradients, from t = 0 to t = 1."""
  process = GRAPHS[name](1000, schedule)
  x0, z, _ = drawn(process, rows=6)
  z = z.at[0].set(x0[0])  # at t = 0
  raw = np.asarray(jax.random.normal(KEY, (*z.shape, 1000)), np.float32)
  t = np.array([[0.0], [1e-3], [0.1], [0.5], [0.9], [1.0]], np.float32)
  x0, z = np.asarray(x0, np.int32), np.asarray(z, np.int32)
  values = []
  for is_exact in (True, False):
    with jax.enable_x64(is_exact):
      cast = lambda x: jnp.asarray(x, float)
      head = functools.partial(LogScoreHead(process.is_absorbing), process)

      @jax.jit
      def loss(raw, cast=cast, head=head):
        given = head(cast(raw), z, cast(t))
        nats = score_entropy(process, x0, given, z, cast(t))
        return nats.sum(), nats

      (_, nats), grad = jax.value_and_grad(loss, has_aux=True)(cast(raw))
      assert nats.dtype == cast(0).dtype and jnp.isfinite(nats).all()
      assert jnp.isfinite(grad).all()
      values.append(np.asarray(nats))
  np.testing.assert_allclose(values[1], values[0], rtol=1e-5)


@pytest.mark.parametrize('name', GRAPHS)
def test_the_head(name):
  process = GRAPHS[name](5, Linear(1e-3))
  z = jnp.array([0, 1 if name == 'absorbing' else 2, 4])
  raw = jax.random.normal(KEY, (3, 5))
  scaled = name == 'absorbing'
  head = functools.partial(LogScoreHead(scaled), process)
  value = head(raw, z, 0.4).value
  np.testing.assert_array_equal(value[jnp.arange(3), z], 0.0)
  want, sigma = raw, -process.schedule(0.4).log_alpha
  if scaled:
    want = raw - jnp.log(jnp.expm1(sigma)) - jnp.log(4.0)
    # An output of zeros is an even guess.
    even = head(jnp.zeros((3, 5)), z, 0.4)
    tokens = process.clean_log_probs(to_cavity(process, even, z, 0.4).logits)
    np.testing.assert_allclose(tokens[1, 0], -jnp.log(4.0), rtol=1e-9)
    same = to_log_score(process, Cavity(jnp.zeros((3, 5))), z, 0.4)
    token = jnp.array([0, 2, 3, 4])
    np.testing.assert_allclose(even.value[1][token], same.value[1][token])
  seen = ~(jnp.arange(5) == z[:, None]) & ~(
    process.is_mask(jnp.arange(5)) & (not process.is_absorbing)
  )
  np.testing.assert_allclose(value[seen], want[seen], rtol=1e-9)
  if name == 'uniform-beside-mask':
    assert jnp.isneginf(value[:, 1]).all()
  # Given tokens have t = 0, beside others that do not.
  given = head(raw, z, jnp.array([0.0, 0.4, 0.0])).value
  assert not jnp.isnan(given).any() and not (given == jnp.inf).any()
  np.testing.assert_array_equal(given[1], value[1])


def test_a_small_sigma_is_not_lost():
  """log(e^sigma - 1) at sigma = 1e-7, where e^sigma is 1 in float32."""
  with jax.enable_x64(False):
    process = absorbing(5, 4, Linear())
    value = functools.partial(LogScoreHead(True), process)(
      jnp.zeros((1, 5)), jnp.array([4]), 1e-7
    ).value
  want = -np.log(np.expm1(1e-7)) - np.log(4.0)
  np.testing.assert_allclose(value[0, :4], want, rtol=1e-6)


@pytest.mark.parametrize('name', GRAPHS)
def test_the_objective_reports_its_terms(name):
  process = GRAPHS[name](5, Linear(1e-3))
  ids = jnp.array([[0, 2, 3], [4, 0, 2]])
  head = functools.partial(LogScoreHead(process.is_absorbing), process)
  model = student(lambda x, t: head(jnp.zeros((*x.shape, 5)), x, t), process)
  objective = Nelbo(score_entropy)
  loss, terms = jax.jit(lambda ids: objective(model, KEY, batch_of(ids)))(ids)
  np.testing.assert_allclose(loss, sum(terms.values()))
  assert (terms['prior'] > 0).all() and (terms['reconstruction'] == 0).all()


def test_a_foreign_head_is_refused():
  process = absorbing(4, 3, Linear())
  z = jnp.full(6, 3)
  with pytest.raises(TypeError, match='takes LogScore heads, not Cavity'):
    score_entropy(process, z * 0, Cavity(jnp.zeros((6, 4))), z, 0.5)
