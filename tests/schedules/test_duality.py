"""The signal that argmax leaves of Gaussian noise, against other integrals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import log_ndtr
from scipy.stats import norm

from textdiffusion.core.types import UserError
from textdiffusion.schedules.duality import (
  argmax_logit,
  gamma_of_signal,
  gaussian_argmax,
  series,
)
from textdiffusion.schedules.noise import inverse

SIZES = [2, 27, 257, 32768, 50257]
GAMMA = np.array([-6.0, -4.0, -3.5, -2.5, -1.75, -1.0, 0.0, 3.0])
of_size = pytest.mark.parametrize('size', SIZES)


def adaptive(integrand, s):
  """Over the line by adaptive quadrature, to 1e-12."""
  ends = -13.0, s + 13.0
  return quad(
    integrand,
    *ends,
    points=sorted({0.0, s / 2, s, 4.3}),
    epsabs=0,
    epsrel=1e-12,
    limit=1000,
  )[0]


@of_size
def test_signal_and_noise_are_those_of_adaptive_quadrature(size):
  """P = int phi(v - s) Phi(v)^(K - 1) for alpha, 1 - P for the noise: each to
  1e-11, and where alpha is small to what is left of P - 1 / K."""
  logit, _ = argmax_logit(GAMMA, size)
  log_alpha, log_noise = -np.logaddexp(0, -logit), -np.logaddexp(0, logit)
  for i, s in enumerate(np.exp(-GAMMA / 2)):
    power = lambda v: (size - 1) * log_ndtr(v)
    stays = adaptive(lambda v: norm.pdf(v - s) * np.exp(power(v)), s)
    moves = adaptive(lambda v: norm.pdf(v - s) * -np.expm1(power(v)), s)
    alpha = (size * stays - 1) / (size - 1)
    np.testing.assert_allclose(
      np.exp(log_alpha[i]), alpha, rtol=1e-11, atol=1e-12
    )
    noise = np.log(moves * size / (size - 1))
    np.testing.assert_allclose(log_noise[i], noise, rtol=1e-11)


@of_size
def test_the_slope_is_that_of_the_logit(size):
  """By central differences of step 1e-4: 1e-8 of the third derivative."""
  step = 1e-4
  _, slope = argmax_logit(GAMMA, size)
  ahead, behind = (argmax_logit(GAMMA + d, size)[0] for d in (step, -step))
  np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=1e-7)


@of_size
def test_the_series_converges_to_the_quadrature(size):
  """From gamma = -4 on, where 150 terms are enough; to 1e-11 in all, as the
  slope is a difference of sums of size s."""
  logit, slope = argmax_logit(GAMMA[1:], size)
  log_alpha, log_noise = -np.logaddexp(0, -logit), -np.logaddexp(0, logit)
  alpha, moved = series(GAMMA[1:], size)
  np.testing.assert_allclose(alpha, np.exp(log_alpha), rtol=1e-11)
  want = slope * np.exp(log_alpha + log_noise)
  np.testing.assert_allclose(moved, want, rtol=1e-11, atol=1e-11)


def test_two_tokens_have_a_closed_form():
  """P(x + eps > eps') = Phi(s / sqrt 2)."""
  logit, _ = argmax_logit(GAMMA, 2)
  s = np.exp(-GAMMA / 2)
  want = log_ndtr(-s / np.sqrt(2)) + np.log(2)
  np.testing.assert_allclose(-np.logaddexp(0, logit), want, rtol=1e-12)


@of_size
@pytest.mark.parametrize('window', [(-3.5, -1.75), (-7.0, 20.0)])
def test_the_table_in_float32(size, window):
  """Against the float64 quadrature between the knots: relative 1e-5 in alpha,
  in 1 - alpha and in the rate, wherever float32 holds the logit (below 64) to
  4e-6."""
  low, high = window
  schedule = gaussian_argmax(size, low, high)
  t = np.float32(np.random.default_rng(0).uniform(size=400))
  level = jax.jit(lambda t: schedule(t))(t)
  assert {x.dtype for x in level} == {jnp.dtype('float32')}
  assert {x.shape for x in level} == {(400, 1)}
  gamma = low + t.astype(np.float64) * (high - low)
  logit, slope = argmax_logit(gamma, size)
  some = abs(logit) < 64
  log_alpha, log_noise = -np.logaddexp(0, -logit), -np.logaddexp(0, logit)
  rate = -slope * (high - low) * np.exp(log_alpha + log_noise)
  for mine, want in (
    (np.exp(level.log_alpha[:, 0], dtype=np.float64), np.exp(log_alpha)),
    (np.exp(level.log_1m_alpha[:, 0], dtype=np.float64), np.exp(log_noise)),
    (level.rate[:, 0], rate),
  ):
    # t * N is rounded to half a unit of float32: of the logit, that times its
    # slope per knot (up to 8 at gamma = -7).
    place = np.spacing(t * np.float32(len(schedule.coefficients))) / 2
    shift = place * abs(slope) * (high - low) / len(schedule.coefficients)
    error = abs(mine - want) / want
    assert (error <= 1e-5 + 2 * shift)[some].all()


@of_size
def test_signal_only_falls(size):
  for window in ((-3.5, -1.75), (-7.5, 40.0)):
    level = gaussian_argmax(size, *window)(jnp.linspace(0, 1, 20_001))
    assert (level.rate >= 0).all()
    assert (jnp.diff(level.log_1m_alpha[:, 0]) >= -1e-6).all()
    assert (jnp.diff(level.log_alpha[:, 0]) <= 1e-6).all()


@pytest.mark.usefixtures('x64')
def test_the_rate_is_the_slope_of_the_alpha_that_is_given():
  """To differences of step 1e-6, and so however coarse the table."""
  schedule = gaussian_argmax(257, -3.5, -1.75)
  t, h = np.linspace(0.01, 0.99, 53), 1e-6
  alpha = lambda t: np.exp(schedule(t).log_alpha)
  slope = (alpha(t - h) - alpha(t + h)) / (2 * h)
  np.testing.assert_allclose(schedule(t).rate, slope, rtol=1e-7)
  total = alpha(t) + np.exp(schedule(t).log_1m_alpha)
  np.testing.assert_allclose(total, 1, rtol=1e-14)


def test_the_ends_and_the_inverse():
  schedule = gaussian_argmax(50257, -7.5, 40.0)
  first, last = schedule(0.0), schedule(1.0)
  assert first.log_alpha == 0 and -600 < first.log_1m_alpha[0] < -400
  assert -33 < last.log_alpha[0] < -18 and abs(last.log_1m_alpha[0]) < 1e-7
  assert all(jnp.isfinite(leaf).all() for leaf in (*first, *last))
  window = gaussian_argmax(50257, -3.5, -1.75)
  t = jnp.linspace(0, 1, 33)
  found = inverse(window, window(t).log_1m_alpha[:, 0])
  np.testing.assert_allclose(found, t, atol=1e-5)


@of_size
def test_a_window_by_its_signal(size):
  """And the paper's windows: 0.942 ... 0.049 and 0.945 ... 0.049."""
  for alpha in (0.95, 0.5, 0.05):
    logit, _ = argmax_logit(np.array([gamma_of_signal(alpha, size)]), size)
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), alpha, rtol=1e-5)
  np.testing.assert_allclose(gamma_of_signal(0.942, 30522), -3.5, atol=1e-2)
  np.testing.assert_allclose(gamma_of_signal(0.049, 50257), -1.85, atol=1e-2)


@pytest.mark.parametrize(
  'make, told',
  [
    (lambda: gaussian_argmax(8, -1.0, -1.0), 'gamma_min=-1.0, gamma_max=-1.0'),
    (lambda: gaussian_argmax(8, -9.0, 0.0), 'gamma_min=-9.0'),
    (lambda: gaussian_argmax(8, -3.0, 41.0), 'gamma_max=41.0'),
    (lambda: gaussian_argmax(1, -3.0, 1.0), 'vocab_size=1'),
  ],
)
def test_bad_windows_are_named(make, told):
  with pytest.raises(UserError, match=told):
    make()
