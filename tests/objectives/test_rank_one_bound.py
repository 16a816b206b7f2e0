"""The fused bound is the general one, in value and gradient, and is precise."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_nelbo import integrated
from tests.oracle import PROCESSES, Law
from textdiffusion.core.types import X0, Cavity
from textdiffusion.objectives.nelbo import (
  bound_weight,
  masked_bound,
  rank_one_bound,
  rate_bound,
)
from textdiffusion.objectives.reweighted import Reweighted
from textdiffusion.processes.bridge import to_log_score, to_posterior
from textdiffusion.processes.rank_one import (
  Hybrid,
  absorbing,
  hybrid,
  mixture,
  uniform,
)
from textdiffusion.schedules.noise import (
  Cosine,
  Geometric,
  Linear,
  from_noise,
)

pytestmark = pytest.mark.usefixtures('x64')
quick = pytest.mark.usefixtures('quick_compile')
compiled = jax.jit(rank_one_bound)
# The mask first, in the middle, last, and not at all.
CASES = {
  'absorbing': absorbing(9, 3, Linear()),
  'uniform': uniform(8, Linear()),
  'uniform-geometric': uniform(9, Geometric(), mask_id=0),
  'hybrid': hybrid(9, 8, Hybrid(0.2)),
  'hybrid-gamma': hybrid(9, 0, Hybrid(0.5, 0.5)),
  'xdlm': mixture(9, 4, Cosine(), 0.1),
}


def inputs(p, times, dtype=float, scale=2.0, length=48):
  """x0, head, z [T, L]: tokens kept, moved and masked, heads sure and not."""
  key = jax.random.key(1)
  shape = (len(times), length)
  tokens = np.asarray([k for k in range(p.num_states) if k != p.mask_id])
  x0 = jnp.asarray(tokens)[
    jax.random.randint(key, shape, 0, len(tokens)), None
  ][..., 0]
  t = jnp.asarray(times, dtype)[:, None]
  # Half of z comes of a late time, so that early times see moved tokens too.
  late = jnp.where(jnp.arange(length) < length // 2, t, 0.8)

  @jax.jit
  def noised():
    z = p.corrupt(key, x0, late)
    return jnp.where(p.marginal(x0, t).log_prob(z) > -jnp.inf, z, x0)

  z = noised()
  noise = jax.random.normal(key, (*shape, p.num_states), jnp.float32)
  return x0, Cavity((scale * noise).astype(dtype)), z, t


def value_and_grad(bound, p, x0, head, z, t):
  def total(head):
    nats = bound(p, x0, head, z, t)
    return nats.sum(), nats

  (_, nats), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(head)
  return nats, grad


@quick
@pytest.mark.parametrize('name', CASES)
def test_it_is_the_rate_bound_in_value_and_gradient(name):
  """Token by token in float64, at one time a row and (by rows of different
  times) at all; `rate_bound` itself loses digits as alpha -> 0."""
  p = CASES[name]
  args = inputs(p, [1e-4, 0.05, 0.3, 0.6, 0.9, 0.99])
  mine, mine_grad = value_and_grad(rank_one_bound, p, *args)
  general, general_grad = value_and_grad(rate_bound, p, *args)
  assert (mine > 0).any(1).all()
  np.testing.assert_allclose(mine, general, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(
    mine_grad.logits, general_grad.logits, rtol=1e-8, atol=1e-10
  )


@quick
@pytest.mark.parametrize('name', ['uniform', 'hybrid', 'xdlm'])
def test_a_time_for_every_token(name):
  """Times of one row that differ give what each gives alone, 0 and 1 too
  where the schedule allows; the mask, no token, is never drawn."""
  p = CASES[name]
  ends = [] if name == 'hybrid' else [0.0, 1.0]  # its rate is infinite there
  times = [1e-3, 0.4, 0.9, *ends]
  x0, head, z, t = inputs(p, times, length=5)
  each = compiled(p, x0.T, Cavity(head.logits.swapaxes(0, 1)), z.T, t.T)
  alone = compiled(p, x0, head, z, t)
  np.testing.assert_allclose(each.T, alone, rtol=1e-12)
  np.testing.assert_allclose(alone[4:], 0, atol=1e-12)  # no signal, no loss
  assert jnp.isfinite(alone).all()


@quick
def test_absorbing_is_exact_at_both_ends():
  p = CASES['absorbing']
  x0, head, _, t = inputs(p, [1e-9, 0.5, 1.0])
  z = jnp.full_like(x0, p.mask_id)
  np.testing.assert_allclose(
    compiled(p, x0, head, z, t),
    masked_bound(p, x0, head, z, t),
    rtol=1e-12,
  )
  assert (compiled(p, x0, head, x0, t) == 0).all()


@pytest.mark.parametrize('name', CASES)
def test_float32_is_within_1e_5_of_float64(name):
  """rtol 1e-5, of the value and of the gradient's largest entry; atol 1e-6
  nats a unit of weight, as logsumexp of logits near 10 rounds by that."""
  p = CASES[name]
  times = np.float32([2.0**-24, 1e-4, 0.1, 0.5, 0.9, 0.999, 1 - 2.0**-24])
  with jax.enable_x64(False):
    narrow = inputs(p, times, jnp.float32)
    mine, mine_grad = value_and_grad(rank_one_bound, p, *narrow)
    assert mine.dtype == mine_grad.logits.dtype == jnp.float32
  x0, head, z, t = jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), narrow)
  wide = x0, Cavity(head.logits.astype(float)), z, t.astype(float)
  exact, exact_grad = value_and_grad(rank_one_bound, p, *wide)
  slack = 1e-6 * bound_weight(p, x0, z, wide[3])
  assert (abs(mine - exact) <= 1e-5 * exact + slack).all()
  gap = abs(mine_grad.logits - exact_grad.logits).max(-1)
  most = abs(exact_grad.logits).max(-1)
  assert (gap <= 1e-5 * most + slack).all()


@pytest.mark.parametrize('name', CASES)
def test_gradients_are_finite_with_forbidden_tokens_in_float32(name):
  """Logits of -inf and of 200: float32's range is not left, with noise on
  the tokens even where x itself is forbidden."""
  p = CASES[name]
  times = np.float32([2.0**-24, 0.5, 1 - 2.0**-24])
  with jax.enable_x64(False):
    x0, head, z, t = inputs(p, times, jnp.float32, scale=60.0)
    is_x = x0[..., None] == jnp.arange(p.num_states)
    spare = is_x if p.is_absorbing else False  # -log 0 is inf there
    sure = jnp.abs(head.logits) > 100
    forbidden = Cavity(jnp.where(sure & ~spare, -jnp.inf, head.logits))
    nats, grad = value_and_grad(rank_one_bound, p, x0, forbidden, z, t)
  assert sure.any() and jnp.isfinite(nats).all() and (nats >= 0).all()
  assert jnp.isfinite(grad.logits).all()


@quick
def test_gradients_reach_a_learnt_schedule():
  """The derivative in log r is written out too: against central differences
  in the power of alpha = 1 - t^power, which also moves the weight."""
  x0, head, z, t = inputs(CASES['xdlm'], [0.2, 0.5, 0.8])

  @jax.jit
  def loss(power):
    schedule = lambda t: from_noise(lambda t: t**power, t)
    p = dataclasses.replace(CASES['xdlm'], schedule=schedule)
    return rank_one_bound(p, x0, head, z, t).sum()

  step = 1e-5
  want = (loss(1.3 + step) - loss(1.3 - step)) / (2 * step)
  np.testing.assert_allclose(jax.grad(loss)(1.3), want, rtol=1e-7)


@quick
def test_other_heads_are_converted_and_foreign_ones_refused():
  p = CASES['hybrid']
  x0, head, z, t = inputs(p, [0.3, 0.8])
  want = compiled(p, x0, head, z, t)
  for to in (to_posterior, to_log_score):
    mine = compiled(p, x0, jax.jit(to)(p, head, z, t), z, t)
    np.testing.assert_allclose(mine, want, rtol=1e-8)
  with pytest.raises(TypeError, match='RankOne takes Cavity.*not X0'):
    rank_one_bound(p, x0, X0(head.logits), z, t)


@pytest.mark.parametrize('name', ['uniform', 'hybrid', 'xdlm'])
@pytest.mark.parametrize('seed', [0, 1])
def test_bound_is_the_entropy_and_a_mislabelled_head_leaves_a_gap(name, seed):
  p = PROCESSES[name](3)
  law = Law(p, 2, seed)
  wrong = lambda z, t: Cavity(law.posterior(z, t).logits)

  @jax.jit
  def bounds():
    right = integrated(p, law, law.cavity, rank_one_bound)
    return right, integrated(p, law, wrong, rank_one_bound)

  right, mislabelled = bounds()
  np.testing.assert_allclose(right, -law.log_p, atol=2e-5)
  gap = jnp.exp(law.log_p) @ mislabelled - law.entropy
  assert gap > (0.1 if name == 'uniform' else 0.02)


def test_the_backward_pass_keeps_two_arrays_of_the_logits_size():
  """What XLA on CPU holds beside logits and gradient, in units of [L, V]
  float32: u and its slope here, 9 and more of the general form."""
  p = mixture(4097, 4096, Linear(), 0.1)
  with jax.enable_x64(False):
    x0 = jnp.arange(64)
    logits = jnp.zeros((64, 4097), jnp.float32)

    def units(bound):
      loss = lambda h: bound(p, x0, Cavity(h), x0, 0.5).sum()
      done = jax.jit(jax.value_and_grad(loss)).lower(logits).compile()
      return done.memory_analysis().temp_size_in_bytes / logits.nbytes

    fused, general = units(rank_one_bound), units(rate_bound)
  assert fused < 2.1 < 6 < general


@quick
def test_reweighted_is_the_bound_with_other_weights():
  """And its dynamic weights have the bound's ratios of kept to moved tokens,
  in any process: b / alpha for b / (alpha + b) where noise is rare."""
  p = CASES['hybrid']
  x0, head, z, t = inputs(p, [0.001, 0.3, 0.8])
  bound = compiled(p, x0, head, z, t)
  free = Reweighted('clipped', 0.0, 1e9)
  np.testing.assert_allclose(free(p, x0, head, z, t), bound, rtol=1e-12)
  own = bound_weight(p, x0, z, t) * jnp.exp(-p.schedule(t).log_alpha[..., 0])
  dynamic = Reweighted('dynamic', 0.0, 1e9)
  weight = dynamic.weight(p, x0, z, t)
  nats = dynamic(p, x0, head, z, t)
  np.testing.assert_allclose(nats * own, bound * weight, rtol=1e-9)
  kept, moved = z == x0, (z != x0) & ~p.is_mask(z)
  assert (weight[p.is_mask(z)] == 2).all() and (weight[moved] == 1).all()
  level, lam = p.schedule(t), jnp.log((1 - t) / t)
  paper = 0.5 / 8 * jnp.exp(-lam / 2)  # B = 0.5, N = 8
  np.testing.assert_allclose(weight[kept], (paper + 0 * z)[kept], rtol=1e-12)
  odds = jnp.exp(p.log_noise(x0, t)[..., 0] - level.log_alpha[..., 0])
  rate = (
    p.rate(jnp.zeros_like(z), t)[..., 0] / jnp.exp(p.log_noise(x0, t))[..., 0]
  )
  np.testing.assert_allclose((own / rate)[kept], (odds / (1 + odds))[kept])
  with pytest.raises(TypeError, match='Hybrid schedule, not Cosine'):
    Reweighted('released').weight(CASES['xdlm'], x0, z, t)
