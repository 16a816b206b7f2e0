"""The flow's step against its definition, and the laws it converges to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import (
  PROCESSES,
  Law,
  assert_follows,
  law_of_chain,
  total_variation,
)
from tests.samplers.models import HeadModel, canvas_of, exact, run
from textdiffusion.core.numerics import log_one_hot
from textdiffusion.core.types import X0, Posterior, UserError
from textdiffusion.processes.bridge import to_posterior
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers import Flow, GridSampler
from textdiffusion.samplers.flow import Corrector, flow
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Geometric, Linear, Power

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
S, T = 0.4, 0.55
NAMES = ['absorbing-cosine', 'uniform', 'uniform-beside-mask']
POWERS = {'data_power': 0.5, 'noise_power': 0.5}
GENTLE = Corrector(1.0, **POWERS)


def known(process, xt):
  """Heads that are sure of each clean token: Posterior [N, L, K] and its ids;
  only those that can have become xt."""
  tokens = jnp.asarray(Law(process, 1).tokens)
  ids = jnp.broadcast_to(tokens[:, None], (len(tokens), len(xt)))
  return Posterior(log_one_hot(ids, process.num_states)), ids


def definition(process, x, z, s, t, v, frozen):
  """[K] the law of a step from z for a known x, one rate at a time."""
  now, then = (
    [float(np.exp(c[0])) for c in process.schedule(w)[:2]] for w in (s, t)
  )
  if frozen:
    rate = float(process.schedule(t).rate[0])
    forward = (t - s) * rate / then[1]
    mixing = (t - s) * rate / (then[0] * then[1])
  else:
    forward = np.log(then[1] / now[1])
    mixing = np.log(now[0] / now[1] * then[1] / then[0])
  q = np.exp(np.asarray(process.marginal(jnp.array([x]), t).log_probs[0]))
  u = forward * (np.arange(process.num_states) == x) + v * mixing * q
  u[z] = 0.0
  law = np.zeros(process.num_states)
  law[z] = np.exp(-u.sum())
  return law + (u / u.sum() * (1 - law[z]) if u.sum() else 0)


@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('corrector', [None, Corrector(3.0, 0.5, 1.0)])
@pytest.mark.parametrize('name', NAMES)
def test_a_step_is_draw_then_jump(name, corrector, frozen):
  """Sure heads against the definition; then their mixture under a posterior."""
  process = PROCESSES[name](3)
  tokens = np.asarray(Law(process, 1).tokens)
  masked = process.is_absorbing
  xt = jnp.array([process.mask_id] * 3 if masked else [tokens[0]] * 3)
  transition = jax.jit(flow(process, corrector, frozen))
  heads, ids = known(process, xt)
  each = jax.vmap(lambda head: transition(head, xt, S, T).log_probs)(heads)
  v = float(corrector(T)) if corrector else 0.0
  for row, place in itertools.product(range(len(ids)), range(3)):
    want = definition(
      process, int(ids[row, 0]), int(xt[place]), S, T, v, frozen
    )
    np.testing.assert_allclose(np.exp(each[row, place]), want, atol=1e-12)
  log_p = jax.random.normal(jax.random.key(1), (3, process.num_states))
  head = Posterior(process.clean_log_probs(log_p))
  mixed = jnp.einsum(
    'nlk,ln->lk', jnp.exp(each), jnp.exp(head.logits[:, tokens])
  )
  dist = transition(head, xt, S, T)
  np.testing.assert_allclose(jnp.exp(dist.log_probs), mixed, atol=1e-12)
  np.testing.assert_allclose(
    jax.nn.logsumexp(dist.logits, axis=-1), 0, atol=1e-12
  )


def test_the_powers_of_a_corrector():
  """v(t) = scale t^noise_power (1 - t)^data_power, of the sampler too."""
  t = jnp.asarray([0.1, 0.4, 0.9])
  v = lambda t: 3.0 * t**0.5 * (1 - t) ** 2.0
  corrector = Corrector(3.0, data_power=2.0, noise_power=0.5)
  np.testing.assert_allclose(corrector(t), v(t), rtol=1e-12)

  process = PROCESSES['uniform'](3)
  model, canvas = exact(Law(process, 2)), canvas_of(200, None, None)

  class Own(GridSampler):
    def transition(self, process):
      return flow(process, v)

  ids = lambda sampler: run(model, canvas, sampler).ids
  want = ids(Own(4))
  got = ids(Flow(4, corrector=3.0, data_power=2.0, noise_power=0.5))
  np.testing.assert_array_equal(got, want)
  swapped = Flow(4, corrector=3.0, data_power=0.5, noise_power=2.0)
  assert (ids(swapped) != want).any()


@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('name', ['absorbing', 'uniform'])
def test_visible_tokens_leave_only_by_the_corrector(name, frozen):
  process = PROCESSES[name](3)
  xt = jnp.array([0, 1, 2])
  sure = process.clean(xt)
  stays = flow(process, None, frozen)(sure, xt, S, T)
  np.testing.assert_array_equal(jnp.exp(stays.log_prob(xt)), 1)
  v = float(GENTLE(T))
  dist = flow(process, GENTLE, frozen)(sure, xt, S, T)
  for i in range(3):
    want = definition(process, i, i, S, T, v, frozen)
    np.testing.assert_allclose(np.exp(dist.log_probs[i]), want, atol=1e-12)
    assert want[i] < 1


@pytest.mark.parametrize('name', ['absorbing-cosine'])
def test_of_an_absorbing_process_it_is_the_bridge(name):
  process = PROCESSES[name](3)
  xt = jnp.array([process.mask_id, process.mask_id, int(not process.mask_id)])
  logits = jax.random.normal(jax.random.key(0), (3, process.num_states))
  head = Posterior(
    jnp.where(process.likelihood(xt, T) > -jnp.inf, logits, -jnp.inf)
  )
  for s, t in [(S, T), (0.0, T), (0.9, 1.0), (0.0, 1.0)]:
    mine, bridge = (
      jnp.exp(jax.jit(f)(head, xt, s, t).log_probs)
      for f in (flow(process), process.bridge)
    )
    seen = slice(2 if t == 1 else 3)  # at t = 1 no token is visible
    np.testing.assert_allclose(mine[seen], bridge[seen], atol=1e-12)


def kernel(process, x, transition, s, t):
  """[K, K] from z to y of one token for a known x."""
  z = jnp.arange(process.num_states)
  return jnp.exp(transition(process.clean(z * 0 + x), z, s, t).log_probs)


@pytest.mark.parametrize('name', ['absorbing-cosine', 'uniform-poly'])
def test_the_path_of_a_known_token_is_kept(name):
  """q_t(. | x) goes to q_s(. | x): exactly by integrated rates, to first order
  by frozen ones, and as well with a corrector."""
  process, x = PROCESSES[name](3), 2
  q = lambda t: jnp.exp(process.marginal(jnp.array([x]), t).log_probs[0])
  reached = q(T) > 0

  def carry(transition, s):
    step = jax.jit(lambda s: kernel(process, x, transition, s, T))(s)
    return q(T) @ jnp.where(reached[:, None], step, 0.0)

  np.testing.assert_allclose(carry(flow(process), S), q(S), atol=1e-12)
  assert abs(carry(flow(process, frozen=True), S) - q(S)).max() > 1e-3
  h = 1e-4
  for frozen in (False, True):
    for corrector in (None, Corrector(5.0, 0.5, 0.5)):
      error = carry(flow(process, corrector, frozen), T - h) - q(T - h)
      assert abs(error).max() < 40 * h**2  # second order: 1e-4 if first


def far(law, transition, num_steps, head_of, given=None, grid=grids.uniform):
  chain = law_of_chain(
    law.process, head_of, law.length, grid(num_steps), transition, given
  )
  return total_variation(law, chain, given)


@pytest.mark.parametrize(
  'name, given, seed',
  [
    ('absorbing', None, 0),
    ('absorbing', [-1, 1, -1], 1),
    ('uniform', None, 1),
    ('uniform', [-1, 1, -1], 0),
  ],
)
def test_the_flow_converges_as_one_over_t(name, given, seed):
  """Free and infilled, two laws."""
  process = PROCESSES[name](2)
  law = Law(process, 3, seed)
  given = None if given is None else jnp.array(given)
  few, many = (
    far(law, flow(process), n, law.posterior, given) for n in (8, 128)
  )
  assert few / many > 12 and many < 0.006


@pytest.mark.parametrize(
  'name, given', [('absorbing', None), ('uniform-poly', [-1, 1, -1])]
)
def test_with_a_corrector_it_converges_to_the_same_law(name, given):
  process = PROCESSES[name](2)
  law = Law(process, 3)
  given = None if given is None else jnp.array(given)
  few, many = (
    far(law, flow(process, GENTLE), n, law.posterior, given) for n in (8, 128)
  )
  assert few / many > 8 and many < 0.01


def test_frozen_rates_cost_steps_at_the_end_of_uniform_noise():
  """The official solver's error does not fall as 1 / T: the rate 1 / t moves
  most where it is frozen longest."""
  process = PROCESSES['uniform'](3)
  law = Law(process, 2)
  frozen, exact = (
    [far(law, flow(process, None, f), n, law.posterior) for n in (8, 128)]
    for f in (True, False)
  )
  assert exact[0] / exact[1] > 15
  assert frozen[0] / frozen[1] < 8
  assert frozen[1] > 3 * exact[1]


def test_a_mislabelled_head_never_converges():
  process = PROCESSES['uniform'](3)
  law = Law(process, 2)
  wrong = lambda z, t: Posterior(law.cavity(z, t).logits)
  assert far(law, flow(process), 128, wrong) > 0.03


@pytest.mark.parametrize('corrector', [None, Corrector(10.0, 0.0, 0.0)])
@pytest.mark.parametrize('schedule', [Linear(), Power(2.0), Geometric()])
@pytest.mark.parametrize('frozen', [False, True])
def test_the_ends_of_time(corrector, schedule, frozen):
  """No NaN at t = 1 and s = 0; the last step takes the drawn token; a given
  token, of t = 0, stays."""
  for process in (absorbing(4, 3, schedule), uniform(4, schedule, 3)):
    transition = jax.jit(flow(process, corrector, frozen))
    z = jnp.array([3, 3, 3] if process.is_absorbing else [0, 1, 2])
    logits = jax.random.normal(jax.random.key(0), (3, 4))
    head = Posterior(process.clean_log_probs(logits))
    first = transition(head, z, 0.9, 1.0)
    np.testing.assert_allclose(jnp.exp(first.log_probs).sum(-1), 1)
    last = transition(head, z, 0.0, 0.1)
    np.testing.assert_allclose(
      jnp.exp(last.log_probs), jax.nn.softmax(head.logits), atol=1e-12
    )
    given = transition(head, jnp.array([0, 1, 2]), 0.0, 0.0)
    np.testing.assert_array_equal(given.log_prob(jnp.array([0, 1, 2])), 0)


@pytest.mark.parametrize('corrector', [None, GENTLE])
@pytest.mark.parametrize('name', ['absorbing', 'uniform'])
def test_float32_is_near_float64(name, corrector):
  """Small steps near both ends, where chances of 1e-3 to 1e-6 are in play."""
  process = PROCESSES[name](5)
  z = np.array([process.mask_id if process.is_absorbing else 2] * 4, np.int32)
  raw = 4 * jax.random.normal(jax.random.key(0), (4, process.num_states))
  raw = np.asarray(process.clean_log_probs(raw), np.float32)

  def law(s, t):
    head = Posterior(jnp.asarray(raw, float))
    step = flow(process, corrector)(head, jnp.asarray(z), s, t)
    return jnp.exp(step.log_probs)

  for s, t in [(0.5, 0.501), (0.998, 0.999), (0.001, 0.002)]:
    s, t = np.float32(s), np.float32(t)  # the same times in both precisions
    exact = jax.jit(law)(float(s), float(t))
    with jax.enable_x64(False):
      near = jax.jit(law)(s, t)
    assert exact.dtype == np.float64 and near.dtype == np.float32
    np.testing.assert_allclose(near, exact, atol=1e-5)


@pytest.mark.parametrize('name, place', [('absorbing', None), ('uniform', 0)])
def test_draws_follow_the_law_of_the_chain(name, place):
  """At 5 steps, with a corrector: false alarm 1e-5."""
  process = PROCESSES[name](3)
  law = Law(process, 2)
  token = int(law.tokens[1])
  given = None if place is None else jnp.array([token, -1])
  canvas = canvas_of(6000, None if place is None else token, None)
  model = HeadModel(process, posterior_of(law))
  samples = run(model, canvas, Flow(5, corrector=1.0, **POWERS))
  probs = np.asarray(
    law_of_chain(
      process, law.posterior, 2, grids.cosine(5), flow(process, GENTLE), given
    )
  )
  index = law.ids * process.num_states ** jnp.arange(2)[None, ::-1]
  assert_follows(law, samples.ids, probs[index.sum(-1)])


def posterior_of(law):
  """`Law.denoise` with Bayes' rule: rows [B, L] -> Posterior."""
  return lambda x, t: to_posterior(law.process, law.denoise(x, t), x, t)


def test_what_is_refused():
  process = uniform(4, Linear())
  z = jnp.zeros(3, int)
  with pytest.raises(TypeError, match='not X0'):
    flow(process)(X0(jnp.zeros((3, 4))), z, S, T)
  with pytest.raises(UserError, match='corrector.scale=-1.0: must be at least'):
    Corrector(-1.0)
