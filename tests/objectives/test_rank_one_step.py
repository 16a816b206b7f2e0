"""The fused step is `step_bound` and its cross-entropies, and is precise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_rank_one_bound import CASES, inputs
from textdiffusion.core.types import Cavity, Posterior
from textdiffusion.objectives.d3pm import cross_entropy, hybrid_logits
from textdiffusion.objectives.nelbo import Step, rank_one_step, step_bound
from textdiffusion.processes.bridge import to_posterior

pytestmark = pytest.mark.usefixtures('x64')
quick = pytest.mark.usefixtures('quick_compile')


def general(p, x0, head, z, s, t):
  of = lambda kind: cross_entropy(hybrid_logits(p, head, z, t, kind), x0)
  return Step(step_bound(p, x0, head, z, s, t), of('posterior'), of('output'))


def value_and_grad(step, p, x0, head, z, s, t):
  """The three terms, and the gradient of a sum of each."""

  def total(head, index):
    terms = step(p, x0, head, z, s, t)
    return terms[index].sum(), terms

  grads = []
  for index in range(3):
    of = jax.jit(
      jax.value_and_grad(lambda h, i=index: total(h, i), has_aux=True)
    )
    (_, terms), grad = of(head)
    grads.append(grad.logits)
  return terms, grads


@quick
@pytest.mark.parametrize('name', CASES)
def test_it_is_the_general_step_in_value_and_gradient(name):
  """Token by token in float64; steps short and long, and those to 0."""
  p = CASES[name]
  times = [1e-3, 0.05, 0.3, 0.3, 0.6, 0.9, 0.99]
  x0, head, z, t = inputs(p, times)
  share = jnp.asarray([0.5, 0.0, 0.99, 0.01, 0.0, 0.5, 0.9])[:, None]
  args = x0, head, z, share * t, t
  mine, mine_grads = value_and_grad(rank_one_step, p, *args)
  want, want_grads = value_and_grad(general, p, *args)
  assert (mine.kl > 0).any(1).all()
  for a, b in zip(mine, want, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-11)
  for a, b in zip(mine_grads, want_grads, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-10)


@quick
@pytest.mark.parametrize('name', ['absorbing', 'uniform', 'hybrid'])
def test_posterior_heads_and_perfect_ones(name):
  p = CASES[name]
  x0, head, z, t = inputs(p, [0.1, 0.5, 0.9])
  s = t * 0.8
  posterior = Posterior(to_posterior(p, head, z, t).logits)
  a = jax.jit(rank_one_step)(p, x0, posterior, z, s, t)
  b = jax.jit(rank_one_step)(p, x0, head, z, s, t)
  np.testing.assert_allclose(a.kl, b.kl, rtol=1e-7, atol=1e-12)
  perfect = jax.jit(rank_one_step)(p, x0, p.clean(x0), z, s, t)
  for nats in perfect:
    np.testing.assert_allclose(nats, 0, atol=1e-12)


@pytest.mark.parametrize('name', CASES)
def test_float32_is_within_1e_5_of_float64(name):
  """rtol 1e-5, and as much more as signals at s and t, a short step apart,
  differ by rounding; atol 2e-6 of a nat times the share of time gone by, as
  logsumexp of logits near 10 rounds by that."""
  p = CASES[name]
  times = np.float32([2.0**-20, 1e-3, 0.1, 0.5, 0.5, 0.9, 1 - 2.0**-20])
  share = np.float32([0.5, 0.0, 0.99, 0.001, 0.999, 0.999, 0.99])[:, None]
  with jax.enable_x64(False):
    narrow = inputs(p, times, jnp.float32)
    x0, head, z, t = narrow
    s = jnp.asarray(share) * t
    mine = jax.jit(rank_one_step)(p, x0, head, z, s, t)
    assert mine.kl.dtype == jnp.float32
  wide = lambda x: jnp.asarray(np.asarray(x), float)
  args = (jnp.asarray(np.asarray(x0)), Cavity(wide(head.logits)))
  z, s, t = jnp.asarray(np.asarray(z)), wide(s), wide(t)
  exact = jax.jit(rank_one_step)(p, *args, z, s, t)
  for nats in mine:
    assert jnp.isfinite(nats).all()
  length = (t - s) / t
  rtol = 1e-5 + 2.0**-20 / length
  worst = abs(mine.kl - exact.kl) - rtol * exact.kl - 2e-6 * length
  assert (worst <= 0).all(), worst.max(-1)
  np.testing.assert_allclose(mine.posterior, exact.posterior, atol=2e-5)
  np.testing.assert_allclose(mine.cavity, exact.cavity, atol=1e-5)


def test_an_impossible_token_costs_nothing_and_breaks_no_gradient():
  p = CASES['absorbing']
  x0 = jnp.asarray([1, 2, 4])
  z = jnp.asarray([2, 2, p.mask_id])  # 1 never turns into 2
  head = Cavity(jnp.zeros((3, p.num_states)))
  loss = lambda h: rank_one_step(p, x0, h, z, 0.2 * jnp.ones(1), 0.5).kl.sum()
  assert jnp.isfinite(jax.grad(loss)(head).logits).all()
