"""Refits make the loss linear in time; second moments choose times fairly."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.schedules.adaptive import (
  LossHistory,
  empty_history,
  empty_moments,
  refit,
)
from textdiffusion.schedules.variances import SquareRoot

pytestmark = pytest.mark.usefixtures('x64')
STEPS, BINS = 2000, 100
SQRT = jnp.asarray(np.cumprod(1 - SquareRoot().betas(STEPS)))[:, None]


def measured(alpha, loss):
  """A history without noise: many tokens at every step."""
  history = empty_history(BINS, alpha.shape[1])
  many = 1e6
  total = many * loss(alpha).reshape(BINS, -1, alpha.shape[1]).mean(1)
  return LossHistory(history.total + total, history.count + many)


@pytest.mark.parametrize('power', [0.5, 1.0, 2.0])
def test_the_loss_comes_to_rise_evenly(power):
  """Of (1 - alpha)^p, over three refits; where it is steep at first, p of 0.5,
  one alone is not enough."""
  alpha = jnp.tile(SQRT, (1, 3))
  loss = lambda alpha: (1 - alpha) ** power
  away = []
  for _ in range(3):
    alpha = refit(alpha, measured(alpha, loss))
    means = np.asarray(loss(alpha)).reshape(BINS, -1, 3).mean(1)[:, 1]
    even = np.linspace(means[0], means[-1], BINS)
    away.append(abs(means - even).max())
  assert away[2] < 2e-3 and away[2] <= away[0]
  assert away[0] > (0.03 if power < 1 else 0)
  assert (jnp.diff(alpha, axis=0) <= 0).all()
  np.testing.assert_array_equal(alpha[:, :1], SQRT)
  np.testing.assert_array_equal(alpha[:, 1], alpha[:, 2])


def test_an_even_loss_is_left_as_it_is():
  place = jnp.linspace(0, 1, STEPS)[:, None]
  alpha = jnp.tile(SQRT, (1, 2))
  history = measured(alpha, lambda alpha: place + 0 * alpha)
  assert abs(refit(alpha, history)[:, 1:] - SQRT).max() < 1e-2


def test_history_counts_tokens_wherever_they_stand_in_a_batch():
  keys = jax.random.split(jax.random.key(0), 3)
  place = jnp.floor(jax.random.uniform(keys[0], (50,)) * STEPS) / STEPS
  losses = jax.random.uniform(keys[1], (50, 4))
  is_counted = jax.random.bernoulli(keys[2], 0.7, (50, 4))
  whole = empty_history(BINS, 4).add(place, losses, is_counted)
  other = empty_history(BINS, 4)
  for part in (slice(20, 50), slice(0, 20)):
    other = other.add(place[part], losses[part], is_counted[part])
  chex.assert_trees_all_close(whole, other, rtol=1e-12)
  assert whole.count.sum() == BINS * 4 + is_counted.sum()
  # Each place falls into its own bin, whatever rounding does to it.
  every = jnp.arange(STEPS) / STEPS
  ones = jnp.ones((STEPS, 1))
  count = empty_history(BINS, 1).add(every, ones, ones > 0).count
  assert (count == 1 + STEPS / BINS).all()
  with pytest.raises(ValueError, match='do not fall into 7 equal bins'):
    refit(SQRT, empty_history(7, 1))


def test_second_moments_weigh_times_without_bias():
  """By enumeration: sum of p times weight times loss is the even mean."""
  state = empty_moments(6, kept=2)
  losses = jnp.asarray([0.1, 3.0, 1.0, 0.5, 2.0, 0.0])
  half = state.add(jnp.arange(6), losses)
  np.testing.assert_array_equal(half.probs(), 1 / 6)  # not all have two
  full = half.add(jnp.arange(6), losses)
  p = full.probs()
  np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)
  want = 0.999 * losses / losses.sum() + 0.001 / 6
  np.testing.assert_allclose(p, want, rtol=1e-12)
  u = (jnp.arange(60_000) + 0.5) / 60_000
  index, weight = full.draw(u)
  np.testing.assert_allclose(
    np.bincount(index, minlength=6) / len(u), p, atol=1 / len(u)
  )
  mean = (jnp.asarray(losses)[index] * weight).mean()
  np.testing.assert_allclose(mean, losses.mean(), rtol=1e-3)
  # No loss at all: even.
  none = empty_moments(3, 1).add(jnp.arange(3), jnp.zeros(3))
  np.testing.assert_allclose(none.probs(), 1 / 3, rtol=1e-12)


@pytest.mark.parametrize('seed', range(3))
def test_a_refit_of_losses_that_fall_still_falls_in_time(seed):
  """Losses of a few tokens rise and fall from bin to bin; the signal must not
  rise with time, and the losses count by their running maximum."""
  draw = np.random.default_rng(seed)
  loss = np.linspace(0, 1, BINS)[:, None] + 0.4 * draw.standard_normal(
    (BINS, 2)
  )
  assert (np.diff(loss, axis=0) < 0).mean() > 0.3
  ones = jnp.ones((BINS, 2))
  alpha = jnp.tile(SQRT, (1, 2))
  have = refit(alpha, LossHistory(jnp.asarray(loss), ones), False)
  assert jnp.isfinite(have).all()
  assert (jnp.diff(have, axis=0) <= 0).all()
  assert have.max() <= SQRT.max() and have.min() >= SQRT.min()
  most = jnp.asarray(np.maximum.accumulate(loss, axis=0))
  want = refit(alpha, LossHistory(most, ones), False)
  # The running maximum rises by 1e-5 a bin where it would be flat.
  np.testing.assert_allclose(have, want, atol=5e-3)
