"""The argmax of the Gaussian latent is a draw of the uniform process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, norm

from textdiffusion.core import numerics
from textdiffusion.core.numerics import fine_normal
from textdiffusion.processes.duality import Duality
from textdiffusion.schedules.duality import gaussian_argmax

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY = jax.random.key(0)
# Compiled functions take the process and all numbers as arguments, so that
# they serve all tests of as many tokens.
corrupt = jax.jit(Duality.corrupt)
corrupt_largest = jax.jit(Duality.corrupt_largest, static_argnames='count')


@jax.jit
def marginal_of(duality, x0, t):
  return jnp.exp(duality.discrete.marginal(x0, t).log_probs)


@pytest.mark.parametrize('mask_id', [None, 2])
@pytest.mark.parametrize('t', [0.1, 0.5, 0.9])
def test_argmax_follows_the_uniform_marginal(mask_id, t):
  """Chi-square of 20,000 tokens, drawn at three signals; false alarm 1e-5."""
  duality = Duality(gaussian_argmax(6, -3.0, 3.0), 6 + (mask_id == 2), mask_id)
  x0 = np.full(20_000, 4)
  z, _ = corrupt(duality, KEY, x0, t, 1.0)
  p = np.asarray(marginal_of(duality, x0[:1], t)[0])
  seen = np.bincount(z, minlength=len(p))
  assert p[4] < 0.99 and seen[p == 0].sum() == 0
  value = ((seen - 20_000 * p)[p > 0] ** 2 / (20_000 * p[p > 0])).sum()
  assert value < chi2.ppf(1 - 1e-5, (p > 0).sum() - 1)


@jax.jit
def signal_of(duality, t):
  return duality.schedule(t).log_alpha


@pytest.mark.parametrize('t', [0.0, 0.4])
def test_argmax_keeps_as_often_among_many_tokens(t):
  """How many of 4,000 tokens of 4,096 stay, within 5 standard deviations:
  false alarm below 1e-6."""
  # 16 million draws: here optimised code pays.
  jax.config.update('jax_disable_most_optimizations', False)
  duality = Duality(gaussian_argmax(4096, -3.5, -1.75), 4096)
  keys = jax.random.split(KEY, 8)
  x0 = np.arange(500)
  kept = 0
  for key in keys:
    z, _ = corrupt(duality, key, x0, t, 1.0)
    kept += (np.asarray(z) == x0).sum()
  alpha = float(np.exp(signal_of(duality, t)[0]))
  p = alpha + (1 - alpha) / 4096
  assert 0.3 < p < 0.98
  assert abs(kept - 4000 * p) < 5 * np.sqrt(4000 * p * (1 - p))


@pytest.mark.parametrize('mask_id', [None, 0])
def test_the_softmax_points_at_the_argmax(mask_id):
  duality = Duality(gaussian_argmax(8, -3.0, 1.0), 8 + (mask_id == 0), mask_id)
  x0 = np.tile(np.arange(1, 9 - (mask_id is None)), 9)
  t = np.linspace(0, 1, len(x0), dtype=np.float32)  # a time a token
  z, soft = map(np.asarray, corrupt(duality, KEY, x0, t, 0.1))
  np.testing.assert_array_equal(np.argmax(soft, -1), z)
  np.testing.assert_allclose(soft.sum(-1), 1, rtol=1e-6)
  # Not compiled as one: XLA may then take a quotient of 1e30 twice, with
  # different rounding, in one softmax.
  same, hard = duality.corrupt(KEY, x0, t, 1e-30)
  np.testing.assert_array_equal(z, same)
  np.testing.assert_array_equal(hard, np.eye(soft.shape[-1])[z])
  assert (soft.max(-1) < 0.999).any()
  if mask_id is not None:
    assert (soft[:, mask_id] == 0).all()


def test_draws_are_normal_to_their_tails(monkeypatch):
  """Chi-square of 200,000 draws in 200 equal cells; false alarm 1e-5. The
  largest there can be is 6.3."""
  x = np.asarray(jax.jit(lambda: fine_normal(KEY, (200_000,)))())
  assert x.dtype == np.float32
  place = (200 * norm.cdf(x)).astype(int)
  cells = np.bincount(place, minlength=200)
  value = ((cells - 1000) ** 2 / 1000).sum()
  assert value < chi2.ppf(1 - 1e-5, 199)
  least = lambda key, shape: np.full(shape, 0.5 * 2.0**-32, np.float32)
  monkeypatch.setattr(numerics, 'fine_uniform', least)
  assert 6.3 < fine_normal(KEY, (1,))[0] < 6.4


@pytest.mark.parametrize('mask_id', [None, 2])
@pytest.mark.parametrize('t', [0.1, 0.5, 0.9])
def test_the_largest_coordinates_follow_the_uniform_marginal(mask_id, t):
  """Chi-square of 20,000 tokens; false alarm 1e-5."""
  duality = Duality(gaussian_argmax(6, -3.0, 3.0), 6 + (mask_id == 2), mask_id)
  x0 = np.full(20_000, 4)
  z, soft = jax.tree.map(
    np.asarray, corrupt_largest(duality, KEY, x0, t, 0.5, count=3)
  )
  p = np.asarray(marginal_of(duality, x0[:1], t)[0])
  seen = np.bincount(z, minlength=len(p))
  value = ((seen - 20_000 * p)[p > 0] ** 2 / (20_000 * p[p > 0])).sum()
  assert value < chi2.ppf(1 - 1e-5, (p > 0).sum() - 1)
  assert (soft.ids != mask_id).all()
  ids = np.sort(soft.ids, -1)
  assert (ids[:, 1:] > ids[:, :-1]).all()
  best = np.argmax(soft.weights, -1, keepdims=True)
  np.testing.assert_array_equal(np.take_along_axis(soft.ids, best, -1)[:, 0], z)


def test_all_of_the_largest_are_all():
  """Of every coordinate the softmax has the law of the dense one: means of the
  weight of x0, of the largest and of squares within 5 standard errors of the
  difference, false alarm below 2e-6; fewer coordinates show."""
  duality = Duality(gaussian_argmax(6, -3.0, 3.0), 6)
  x0, t = np.full(20_000, 4), 0.4
  _, dense = corrupt(duality, KEY, x0, t, 1.0)

  def statistics(weights, own):
    return np.stack([own, weights.max(-1), (weights**2).sum(-1)])

  want = statistics(np.asarray(dense), np.asarray(dense[:, 4]))

  def deviation(count):
    _, soft = corrupt_largest(
      duality, jax.random.key(1), x0, t, 1.0, count=count
    )
    weights = np.asarray(soft.weights)
    assert (np.asarray(soft.ids)[:, 0] == 4).all()
    seen = statistics(weights, weights[:, 0])
    error = np.sqrt((seen.var(1) + want.var(1)) / len(x0))
    return abs(seen.mean(1) - want.mean(1)) / error

  assert (deviation(5) < 5).all()
  assert (deviation(3) > 10).all()


@pytest.mark.parametrize('log10_temperature, most', [(-3, 1e-9), (-2, 1e-4)])
def test_what_the_largest_sixteen_leave_out(log10_temperature, most):
  """The mean weight of the other 4,079 tokens, over the window of the paper."""
  duality = Duality(gaussian_argmax(4096, -3.5, -1.75), 4096)
  x0, t = np.arange(200), np.linspace(0, 1, 200, dtype=np.float32)
  _, soft = corrupt(duality, KEY, x0, t, 10.0**log10_temperature)
  others = np.array(soft)
  others[x0, x0] = 0.0  # row i is of token i
  left = np.sort(others, -1)[:, :-16].sum(-1)
  assert left.mean() < most
