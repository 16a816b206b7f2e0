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
  rng = np.random.default_rng(0)
  x0 = rng.choice(
    [v for v in range(process.num_states) if v != process.mask_id],
    (rows, length),
  )
  t = np.linspace(0.02, 0.98, rows)[:, None]
  corrupt = jax.jit(jax.vmap(process.corrupt))
  return x0, np.asarray(corrupt(jax.random.split(KEY, rows), x0, t)), t


def score_of(process, law, z, t):
  """The exact ratios."""
  return to_log_score(process, law.cavity(z, t), z, t)


@pytest.mark.parametrize('name', PROCESSES)
def test_it_is_the_rate_bound_token_by_token(name):
  """In value and gradient; the ratios need not sum to anything."""
  process = PROCESSES[name](7)
  x0, z, t = drawn(process)
  raw = np.random.default_rng(1).normal(size=(*z.shape, process.num_states))
  raw *= 2
  head = functools.partial(LogScoreHead(process.is_absorbing), process)
  values, grads = [], []
  for bound in (rate_bound, score_entropy):

    def loss(raw, bound=bound):
      nats = bound(process, x0, head(raw, z, t), z, t)
      return nats.sum(), nats

    (_, nats), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(raw)
    values.append(np.asarray(nats))
    grads.append(grad)
  assert (values[0] > 0).any()
  np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(*grads, rtol=1e-8, atol=1e-10)


@functools.cache
def bound_of(name):
  """log p -> [2, N]: with the exact ratios, and with those of a law of the
  token that is labelled as ratios of the noisy one."""
  process = PROCESSES[name](3)

  @jax.jit
  def bounds(log_p):
    law = Law(process, 2)
    law.log_p = log_p
    right = functools.partial(score_of, process, law)
    wrong = lambda z, t: LogScore(law.cavity(z, t).logits)
    return [
      integrated(process, law, head, score_entropy) for head in (right, wrong)
    ]

  return process, bounds


@pytest.mark.parametrize('seed', [0, 1])
@pytest.mark.parametrize('name', ['absorbing', 'uniform'])
def test_the_exact_ratios_bound_to_the_entropy(name, seed):
  process, bounds = bound_of(name)
  log_p = np.asarray(Law(process, 2, seed).log_p)
  bound, wrong = map(np.asarray, bounds(log_p))
  np.testing.assert_allclose(bound, -log_p, atol=2e-5)
  assert np.exp(log_p) @ (wrong + log_p) > 0.1


@pytest.mark.parametrize('name', GRAPHS)
@pytest.mark.parametrize('schedule', [Linear(1e-3), Geometric(1e-4, 20.0)])
def test_both_schedules_bound_with_both_ends(name, schedule):
  """Above the entropy by no more than the ends, some 1e-3 nats a token; the
  quadrature is off by less than 1e-7."""
  process = GRAPHS[name](4, schedule)
  law = Law(process, 2)

  @jax.jit
  def terms():
    head = functools.partial(score_of, process, law)
    inner = jnp.exp(law.log_p) @ integrated(process, law, head, score_entropy)
    token = jnp.asarray(law.tokens[0])
    ends = prior_bound(process, token) + process.decoder_bound()
    return inner + law.length * ends - law.entropy, ends

  gap, ends = terms()
  assert -1e-7 < gap < law.length * ends < 5e-3


def test_a_softmax_network_has_the_masked_bound():
  """t-DSE of RADD is MDLM's loss token by token; a network whose ratios do not
  sum to alpha / (1 - alpha) pays for it."""
  process = absorbing(8, 3, Linear(1e-3))
  x0, z, t = drawn(process)
  cavity = Cavity(np.random.default_rng(1).normal(size=(*z.shape, 8)))
  is_masked = z == process.mask_id

  @jax.jit
  def nats():
    score = to_log_score(process, cavity, z, t)
    off = LogScore(score.value + np.where(is_masked, 0.3, 0)[..., None])
    return (
      masked_bound(process, x0, cavity, z, t),
      score_entropy(process, x0, score, z, t),
      score_entropy(process, x0, off, z, t),
    )

  want, got, more = map(np.asarray, nats())
  np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)
  assert (more > want)[is_masked].all() and (more == want)[~is_masked].all()


@pytest.mark.parametrize('name', GRAPHS)
@pytest.mark.parametrize('schedule', [Linear(1e-3), Geometric(1e-4, 20.0)])
def test_float32(name, schedule):
  """Within 1e-5 of float64, with finite gradients, from t = 0 to t = 1."""
  process = GRAPHS[name](1000, schedule)
  x0, z, _ = drawn(process, rows=6)
  z = np.concatenate([x0[:1], z[1:]])  # at t = 0
  raw = np.random.default_rng(1).normal(size=(*z.shape, 1000))
  raw = raw.astype(np.float32)
  t = np.array([[0.0], [1e-3], [0.1], [0.5], [0.9], [1.0]], np.float32)
  x0, z = np.asarray(x0, np.int32), np.asarray(z, np.int32)
  values = []
  for is_exact in (True, False):
    with jax.enable_x64(is_exact):
      cast = lambda x: jnp.asarray(x, float)
      head = functools.partial(LogScoreHead(process.is_absorbing), process)

      def loss(raw, cast=cast, head=head):
        given = head(cast(raw), z, cast(t))
        nats = score_entropy(process, x0, given, z, cast(t))
        return nats.sum(), nats

      of = jax.jit(jax.value_and_grad(loss, has_aux=True))
      (_, nats), grad = of(cast(raw))
      assert nats.dtype == cast(0).dtype and np.isfinite(nats).all()
      assert np.isfinite(grad).all()
      values.append(np.asarray(nats))
  np.testing.assert_allclose(values[1], values[0], rtol=1e-5)


@pytest.mark.parametrize('name', GRAPHS)
def test_the_head(name):
  process = GRAPHS[name](5, Linear(1e-3))
  z = np.array([0, 1 if name == 'absorbing' else 2, 4])
  raw = np.random.default_rng(0).normal(size=(3, 5))
  scaled = name == 'absorbing'
  head = functools.partial(LogScoreHead(scaled), process)

  @jax.jit
  def values():
    sigma = -process.schedule(0.4).log_alpha
    # Given tokens have t = 0, beside others that do not.
    given = head(raw, z, jnp.array([0.0, 0.4, 0.0])).value
    return head(raw, z, 0.4).value, given, sigma

  @jax.jit
  def of_zeros():
    even = head(jnp.zeros((3, 5)), z, 0.4)
    tokens = process.clean_log_probs(to_cavity(process, even, z, 0.4).logits)
    same = to_log_score(process, Cavity(jnp.zeros((3, 5))), z, 0.4)
    return even.value, tokens, same.value

  value, given, sigma = map(np.asarray, values())
  np.testing.assert_array_equal(value[np.arange(3), z], 0.0)
  want = raw
  if scaled:
    want = raw - np.log(np.expm1(sigma)) - np.log(4.0)
    # An output of zeros is an even guess.
    even, tokens, same = map(np.asarray, of_zeros())
    np.testing.assert_allclose(tokens[1, 0], -np.log(4.0), rtol=1e-9)
    token = np.array([0, 2, 3, 4])
    np.testing.assert_allclose(even[1][token], same[1][token])
  seen = (np.arange(5) != z[:, None]) & ~(
    (np.arange(5) == process.mask_id) & (not process.is_absorbing)
  )
  np.testing.assert_allclose(value[seen], want[seen], rtol=1e-9)
  if name == 'uniform-beside-mask':
    assert np.isneginf(value[:, 1]).all()
  assert not np.isnan(given).any() and not (given == np.inf).any()
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
