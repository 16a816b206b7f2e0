"""The fused bound is the general one, in value and gradient, and is precise."""

import contextlib
import dataclasses
import functools

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

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
# What float32 tests are of: 7 times, as many as in the others, so that one
# compiled function of each process serves all tests.
TIMES = (2.0**-24, 1e-4, 0.1, 0.5, 0.9, 0.999, 1 - 2.0**-24)
# The mask first, in the middle, last, and not at all.
CASES = {
  'absorbing': absorbing(9, 3, Linear()),
  'uniform': uniform(8, Linear()),
  'uniform-geometric': uniform(9, Geometric(), mask_id=0),
  'hybrid': hybrid(9, 8, Hybrid(0.2)),
  'hybrid-gamma': hybrid(9, 0, Hybrid(0.5, 0.5)),
  'xdlm': mixture(9, 4, Cosine(), 0.1),
}


@contextlib.contextmanager
def float32_and_all_optimisations():
  """For what rounding does, and for memory: as users compile."""
  jax.config.update('jax_disable_most_optimizations', False)
  try:
    with jax.enable_x64(False):
      yield
  finally:
    jax.config.update('jax_disable_most_optimizations', True)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def drawn(shape, vocab_size, num_states):
  """Indices of tokens and logits."""
  key = jax.random.key(1)
  return (
    jax.random.randint(key, shape, 0, vocab_size),
    jax.random.normal(key, (*shape, num_states)),
  )


@jax.jit
def noised(p, x0, t, late):
  z = p.corrupt(jax.random.key(1), x0, late)
  return jnp.where(p.marginal(x0, t).log_prob(z) > -jnp.inf, z, x0)


def inputs(p, times, scale=2.0, length=48):
  """x0, head, z [T, L]: tokens kept, moved and masked, heads sure and not.

  Ids are int32, logits and times float64 of float32 values.
  """
  shape = (len(times), length)
  tokens = np.delete(
    np.arange(p.num_states, dtype=np.int32),
    [] if p.mask_id is None else p.mask_id,
  )
  t = np.asarray(times, np.float32)[:, None]
  # Half of z comes of a late time, so that early times see moved tokens too.
  late = np.where(np.arange(length) < length // 2, t, np.float32(0.8))
  with jax.enable_x64(False):
    index, noise = map(np.asarray, drawn(shape, len(tokens), p.num_states))
    x0 = tokens[index]
    z = np.asarray(noised(p, x0, t, late))
  head = Cavity((np.float32(scale) * noise).astype(float))
  return x0, head, z, t.astype(float)


def to_float32(inputs):
  return jax.tree.map(
    lambda x: x.astype(np.float32) if x.dtype == float else x, inputs
  )


@functools.partial(jax.jit, static_argnums=0)
def value_and_grad(bound, p, x0, head, z, t):
  """nats [T, L] and their gradient in the logits [T, L, K]."""

  def total(logits):
    nats = bound(p, x0, Cavity(logits), z, t)
    return nats.sum(), nats

  (_, nats), grad = jax.value_and_grad(total, has_aux=True)(head.logits)
  return nats, grad


def compiled(*args):
  """`rank_one_bound`, by the function that is compiled anyway."""
  return np.asarray(value_and_grad(rank_one_bound, *args)[0])


@pytest.mark.parametrize('name', CASES)
def test_it_is_the_rate_bound_in_value_and_gradient(name):
  """Token by token in float64, at one time a row and (by rows of different
  times) at all; `rate_bound` itself loses digits as alpha -> 0."""
  p = CASES[name]
  args = inputs(p, [1e-4, 0.05, 0.1, 0.3, 0.6, 0.9, 0.99])
  mine, mine_grad = value_and_grad(rank_one_bound, p, *args)
  general, general_grad = value_and_grad(rate_bound, p, *args)
  assert (mine > 0).any(1).all()
  np.testing.assert_allclose(mine, general, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(mine_grad, general_grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize('name', ['uniform', 'hybrid', 'xdlm'])
def test_a_time_for_every_token(name):
  """Times of one row that differ give what each gives alone, 0 and 1 too
  where the schedule allows; the mask, no token, is never drawn."""
  p = CASES[name]
  # The hybrid's rate is infinite at both ends.
  ends = [0.7, 0.8] if name == 'hybrid' else [0.0, 1.0]
  x0, head, z, t = inputs(p, [1e-3, 0.05, 0.2, 0.4, 0.9, *ends])
  logits = head.logits.swapaxes(0, 1)
  each = jax.jit(rank_one_bound)(p, x0.T, Cavity(logits), z.T, t.T)
  alone = compiled(p, x0, head, z, t)
  np.testing.assert_allclose(each.T, alone, rtol=1e-12)
  # No signal, no loss.
  np.testing.assert_allclose(alone[t[:, 0] == 1], 0, atol=1e-12)
  assert np.isfinite(alone).all()


def test_absorbing_is_exact_at_both_ends():
  p = CASES['absorbing']
  x0, head, _, t = inputs(p, [1e-9, 1e-3, 0.1, 0.5, 0.9, 0.999, 1.0])
  z = np.full_like(x0, p.mask_id)
  np.testing.assert_allclose(
    compiled(p, x0, head, z, t),
    jax.jit(masked_bound)(p, x0, head, z, t),
    rtol=1e-12,
  )
  assert (compiled(p, x0, head, x0, t) == 0).all()


@pytest.mark.parametrize('name', CASES)
def test_float32_is_within_1e_5_of_float64(name):
  """rtol 1e-5, of the value and of the gradient's largest entry; atol 1e-6
  nats a unit of weight, as logsumexp of logits near 10 rounds by that."""
  p = CASES[name]
  wide = inputs(p, TIMES)
  with float32_and_all_optimisations():
    mine, mine_grad = value_and_grad(rank_one_bound, p, *to_float32(wide))
    assert mine.dtype == mine_grad.dtype == np.float32
  x0, _, z, t = wide
  exact, exact_grad = value_and_grad(rank_one_bound, p, *wide)
  mine, mine_grad, exact, exact_grad = map(
    np.asarray, (mine, mine_grad, exact, exact_grad)
  )
  slack = 1e-6 * np.asarray(jax.jit(bound_weight)(p, x0, z, t))
  assert (abs(mine - exact) <= 1e-5 * exact + slack).all()
  gap = abs(mine_grad - exact_grad).max(-1)
  most = abs(exact_grad).max(-1)
  assert (gap <= 1e-5 * most + slack).all()


def test_the_gradient_in_float32_where_signal_and_prediction_are_rare():
  """Of hybrid noise at t = 0.999 and a prediction of e^-9.9 for the true token;
  the derivative of expm1 was off by 2e-3 there."""
  p = CASES['hybrid']
  logits = np.where(np.arange(p.num_states) == 0, -9.9, 0.0)[None]
  ids, t = np.zeros(1, int), np.array([0.999])
  wide = ids, Cavity(logits), ids, t
  with float32_and_all_optimisations():
    _, mine = value_and_grad(rank_one_bound, p, *to_float32(wide))
  _, exact = value_and_grad(rank_one_bound, p, *wide)
  mine, exact = np.asarray(mine), np.asarray(exact)
  assert abs(mine - exact).max() <= 1e-5 * abs(exact).max()


@pytest.mark.parametrize('name', CASES)
def test_gradients_are_finite_with_forbidden_tokens_in_float32(name):
  """Logits of -inf and of 200: float32's range is not left, with noise on
  the tokens even where x itself is forbidden."""
  p = CASES[name]
  x0, head, z, t = to_float32(inputs(p, TIMES, scale=60.0))
  is_x = x0[..., None] == np.arange(p.num_states)
  spare = is_x if p.is_absorbing else False  # -log 0 is inf there
  sure = abs(head.logits) > 100
  forbidden = Cavity(np.where(sure & ~spare, -np.inf, head.logits))
  with float32_and_all_optimisations():
    nats, grad = value_and_grad(rank_one_bound, p, x0, forbidden, z, t)
  assert nats.dtype == grad.dtype == np.float32
  nats, grad = np.asarray(nats), np.asarray(grad)
  assert sure.any() and np.isfinite(nats).all() and (nats >= 0).all()
  assert np.isfinite(grad).all()


def test_gradients_reach_a_learnt_schedule():
  """The derivative in log r is written out too: against central differences
  in the power of alpha = 1 - t^power, which also moves the weight."""
  x0, head, z, t = inputs(CASES['xdlm'], [0.2, 0.5, 0.8])

  @jax.jit
  @jax.value_and_grad
  def loss(power):
    schedule = lambda t: from_noise(lambda t: t**power, t)
    p = dataclasses.replace(CASES['xdlm'], schedule=schedule)
    return rank_one_bound(p, x0, head, z, t).sum()

  step = 1e-5
  above, below = (float(loss(1.3 + x)[0]) for x in (step, -step))
  want = (above - below) / (2 * step)
  np.testing.assert_allclose(loss(1.3)[1], want, rtol=1e-7)


def test_other_heads_are_converted_and_foreign_ones_refused():
  p = CASES['hybrid']
  x0, head, z, t = inputs(p, [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
  want = compiled(p, x0, head, z, t)

  @jax.jit
  def others():
    heads = [to(p, head, z, t) for to in (to_posterior, to_log_score)]
    return [rank_one_bound(p, x0, head, z, t) for head in heads]

  for mine in others():
    np.testing.assert_allclose(mine, want, rtol=1e-8)
  with pytest.raises(TypeError, match='RankOne takes Cavity.*not X0'):
    rank_one_bound(p, x0, X0(head.logits), z, t)


@functools.cache
def process_of(name):
  return PROCESSES[name](3)


@jax.jit
def bounds(p, log_p):
  """[2, N]: with the cavity, and with the posterior called a cavity."""
  law = Law(p, 2)
  law.log_p = log_p
  wrong = lambda z, t: Cavity(law.posterior(z, t).logits)
  return [
    integrated(p, law, head, rank_one_bound) for head in (law.cavity, wrong)
  ]


@pytest.mark.parametrize('name', ['uniform', 'hybrid', 'xdlm'])
@pytest.mark.parametrize('seed', [0, 1])
def test_bound_is_the_entropy_and_a_mislabelled_head_leaves_a_gap(name, seed):
  p = process_of(name)
  law = Law(p, 2, seed)
  right, mislabelled = bounds(p, law.log_p)
  np.testing.assert_allclose(right, -law.log_p, atol=2e-5)
  gap = jnp.exp(law.log_p) @ mislabelled - law.entropy
  assert gap > (0.1 if name == 'uniform' else 0.02)


def test_the_backward_pass_keeps_two_arrays_of_the_logits_size():
  """What XLA on CPU holds beside logits and gradient, in units of [L, V]
  float32: u and its slope here, 9 and more of the general form."""
  p = mixture(4097, 4096, Linear(), 0.1)
  with float32_and_all_optimisations():
    x0 = jnp.arange(64)
    logits = jnp.zeros((64, 4097), jnp.float32)

    def units(bound):
      loss = lambda h: bound(p, x0, Cavity(h), x0, 0.5).sum()
      done = jax.jit(jax.value_and_grad(loss)).lower(logits).compile()
      return done.memory_analysis().temp_size_in_bytes / logits.nbytes

    fused, general = units(rank_one_bound), units(rate_bound)
  assert fused < 2.1 < 6 < general


def test_reweighted_is_the_bound_with_other_weights():
  """And its dynamic weights have the bound's ratios of kept to moved tokens,
  in any process: b / alpha for b / (alpha + b) where noise is rare."""
  p = CASES['hybrid']
  x0, head, z, t = inputs(p, [0.001, 0.1, 0.3, 0.5, 0.6, 0.7, 0.8])
  bound = compiled(p, x0, head, z, t)
  free = Reweighted('clipped', 0.0, 1e9)
  dynamic = Reweighted('dynamic', 0.0, 1e9)

  @jax.jit
  def terms():
    level = p.schedule(t)
    alpha = jnp.exp(level.log_alpha[..., 0])
    noise = lambda z: jnp.exp(p.log_noise(z, t))[..., 0]
    return (
      free(p, x0, head, z, t),
      bound_weight(p, x0, z, t) / alpha,
      dynamic.weight(p, x0, z, t),
      dynamic(p, x0, head, z, t),
      noise(x0) / alpha,
      p.rate(jnp.zeros_like(z), t)[..., 0] / noise(x0),
    )

  clipped, own, weight, nats, odds, rate = map(np.asarray, terms())
  np.testing.assert_allclose(clipped, bound, rtol=1e-12)
  np.testing.assert_allclose(nats * own, bound * weight, rtol=1e-9)
  is_mask = z == p.mask_id
  kept, moved = z == x0, (z != x0) & ~is_mask
  assert (weight[is_mask] == 2).all() and (weight[moved] == 1).all()
  lam = np.log((1 - t) / t)
  paper = 0.5 / 8 * np.exp(-lam / 2)  # B = 0.5, N = 8
  np.testing.assert_allclose(weight[kept], (paper + 0 * z)[kept], rtol=1e-12)
  np.testing.assert_allclose((own / rate)[kept], (odds / (1 + odds))[kept])
  with pytest.raises(TypeError, match='Hybrid schedule, not Cosine'):
    Reweighted('released').weight(CASES['xdlm'], x0, z, t)
