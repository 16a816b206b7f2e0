"""The fused step is `step_bound` and its cross-entropies, and is precise."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.objectives.test_rank_one_bound import (
  CASES,
  float32_and_all_optimisations,
  inputs,
  to_float32,
)
from textdiffusion.core.types import Cavity, Posterior
from textdiffusion.objectives.d3pm import cross_entropy, hybrid_logits
from textdiffusion.objectives.nelbo import Step, rank_one_step, step_bound
from textdiffusion.processes.bridge import to_posterior

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')


def general(p, x0, head, z, s, t):
  of = lambda kind: cross_entropy(hybrid_logits(p, head, z, t, kind), x0)
  return Step(step_bound(p, x0, head, z, s, t), of('posterior'), of('output'))


@functools.partial(jax.jit, static_argnums=0)
def value_and_grads(step, p, x0, head, z, s, t):
  """The three terms, and [3, T, L, K] the gradient of a sum of each."""
  terms, pull = jax.vjp(
    lambda logits: step(p, x0, Cavity(logits), z, s, t), head.logits
  )
  each = jnp.eye(3)[..., None, None] * jnp.ones((1, 1, *z.shape))
  (grads,) = jax.vmap(pull)(Step(*each.swapaxes(0, 1)))
  return terms, grads


@pytest.mark.parametrize('name', CASES)
def test_it_is_the_general_step_in_value_and_gradient(name):
  """Token by token in float64; steps short and long, and those to 0."""
  p = CASES[name]
  times = [1e-3, 0.05, 0.3, 0.3, 0.6, 0.9, 0.99]
  x0, head, z, t = inputs(p, times)
  share = np.asarray([0.5, 0.0, 0.99, 0.01, 0.0, 0.5, 0.9])[:, None]
  args = x0, head, z, share * t, t
  mine, mine_grads = value_and_grads(rank_one_step, p, *args)
  want, want_grads = value_and_grads(general, p, *args)
  assert (np.asarray(mine.kl) > 0).any(1).all()
  chex.assert_trees_all_close(mine, want, rtol=1e-8, atol=1e-11)
  np.testing.assert_allclose(mine_grads, want_grads, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize('name', ['absorbing', 'uniform', 'hybrid'])
def test_posterior_heads_and_perfect_ones(name):
  p = CASES[name]
  x0, head, z, t = inputs(p, [0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9])
  s = t * 0.8

  @jax.jit
  def of_posterior():
    posterior = Posterior(to_posterior(p, head, z, t).logits)
    return rank_one_step(p, x0, posterior, z, s, t)

  step = lambda head: value_and_grads(rank_one_step, p, x0, head, z, s, t)[0]
  a, b = of_posterior(), step(head)
  np.testing.assert_allclose(a.kl, b.kl, rtol=1e-7, atol=1e-12)
  for nats in step(Cavity(np.asarray(p.clean(x0).logits))):
    np.testing.assert_allclose(nats, 0, atol=1e-12)


@pytest.mark.parametrize('name', CASES)
def test_float32_is_within_1e_5_of_float64(name):
  """rtol 1e-5, and as much more as signals at s and t, a short step apart,
  differ by rounding; atol 2e-6 of a nat times the share of time gone by, as
  logsumexp of logits near 10 rounds by that."""
  p = CASES[name]
  times = np.float32([2.0**-20, 1e-3, 0.1, 0.5, 0.5, 0.9, 1 - 2.0**-20])
  share = np.float32([0.5, 0.0, 0.99, 0.001, 0.999, 0.999, 0.99])[:, None]
  x0, head, z, t = inputs(p, times)
  s = (share * times[:, None]).astype(float)
  with float32_and_all_optimisations():
    mine = jax.jit(rank_one_step)(p, *to_float32((x0, head, z, s, t)))
    assert mine.kl.dtype == np.float32
  exact, _ = value_and_grads(rank_one_step, p, x0, head, z, s, t)
  mine, exact = jax.tree.map(np.asarray, (mine, exact))
  for nats in mine:
    assert np.isfinite(nats).all()
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
  assert jnp.isfinite(jax.jit(jax.grad(loss))(head).logits).all()
