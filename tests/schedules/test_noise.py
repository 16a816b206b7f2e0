"""One table of schedules, one set of laws for all of them."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.core.types import UserError
from textdiffusion.schedules.noise import (
  Cosine,
  CosineSquared,
  Geometric,
  Linear,
  LinearSigma,
  Polynomial,
  PolynomialPerToken,
  Power,
  Sine,
  Squeezed,
  inverse,
  log_transition,
)

PROPER = [
  Linear(),
  Cosine(),
  Sine(),
  CosineSquared(),
  Polynomial(2.0),
  Polynomial(0.5),
  Power(1.0),
  Power(2.0),
]
OTHERS = [
  Linear(1e-3),
  Cosine(1e-3),
  CosineSquared(1e-3),
  Polynomial(3.0, 1e-3),
  Power(2.0, 1e-3),
  Geometric(1e-3, 20.0),
  LinearSigma(1e-4, 10.0),
  Sine(1e-3),
  Squeezed(Linear(), 1e-3),
  Squeezed(Sine()),
]
every = pytest.mark.parametrize('schedule', PROPER + OTHERS, ids=str)


@every
@pytest.mark.usefixtures('x64')
def test_signal_and_noise_add_up_and_the_rate_is_the_slope(schedule):
  t, h = np.linspace(0.01, 0.99, 50), 1e-6
  level = schedule(t)
  assert level.rate.shape == (50, 1)
  total = jnp.exp(level.log_alpha) + jnp.exp(level.log_1m_alpha)
  np.testing.assert_allclose(total, 1, rtol=1e-12)
  alpha = lambda t: np.exp(schedule(t).log_alpha)
  slope = (alpha(t - h) - alpha(t + h)) / (2 * h)
  np.testing.assert_allclose(level.rate, slope, rtol=1e-5, atol=1e-8)
  hazard = (schedule(t + h).log_alpha - schedule(t - h).log_alpha) / (-2 * h)
  np.testing.assert_allclose(level.hazard, hazard, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('schedule', PROPER, ids=str)
def test_the_ends_are_exact_in_float32(schedule):
  first, last = schedule(0.0), schedule(1.0)
  assert first.log_alpha == 0 and first.log_1m_alpha == -jnp.inf
  assert last.log_alpha == -jnp.inf
  np.testing.assert_allclose(last.log_1m_alpha, 0, atol=2e-7)
  assert jnp.isfinite(last.rate).all()
  # Just inside, small signal and small noise are both seen.
  assert -35 < schedule(1e-7).log_1m_alpha[0] < -7
  assert -35 < schedule(1 - 2.0**-24).log_alpha[0] < -7


@pytest.mark.parametrize('schedule', OTHERS, ids=str)
def test_what_keeps_signal_or_begins_noisy_has_finite_ends(schedule):
  for level in (schedule(0.0), schedule(1.0)):
    assert not any(jnp.isnan(leaf).any() for leaf in level)


def test_squeezed_by_nothing_is_the_schedule():
  t = jnp.linspace(0.0, 1.0, 9)
  squeezed = Squeezed(Cosine(), 0.0)(t)
  chex.assert_trees_all_close(squeezed, Cosine()(t), rtol=1e-6, atol=1e-7)


@pytest.mark.usefixtures('x64')
def test_squeezed_ends_are_eps_from_the_ends():
  level = Squeezed(Sine(), 1e-4)(jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(
    jnp.exp(level.log_alpha[:, 0]), [1 - 1e-4, 1e-4], rtol=1e-12
  )


def test_each_token_has_the_polynomial_of_its_power():
  """In float32, with the ends: a power's column against its own schedule,
  whose log(1 - alpha) at t = 1 is of a rounded 0.999 (6e-8)."""
  powers = (0.5, 1.0, 3.0)
  each = PolynomialPerToken(jnp.array(powers), 1e-3)
  t = jnp.array([0.0, 1e-3, 0.4, 1.0])
  ids = jnp.array([2, 0, 1, 0])
  for k, power in enumerate(powers):
    for mine, want in zip(each(t), Polynomial(power, 1e-3)(t), strict=True):
      np.testing.assert_allclose(mine[:, k], want[:, 0], 2e-6, 1e-7)
  for mine, want in zip(each.of(ids, t), each(t), strict=True):
    np.testing.assert_array_equal(mine, want[jnp.arange(4), ids])
  rates = each.reveal_rate(t[1:])
  level = each(t[1:])
  np.testing.assert_allclose(
    rates, level.rate * jnp.exp(-level.log_1m_alpha), rtol=2e-6
  )
  np.testing.assert_array_equal(
    each.reveal_rate(t[1:], ids[1:]), rates[jnp.arange(3), ids[1:]]
  )


@every
def test_noise_grows_and_inverse_finds_its_time(schedule):
  t = jnp.linspace(0.0, 1.0, 65)
  noise = schedule(t).log_1m_alpha[..., 0]
  assert (noise[1:] >= noise[:-1]).all()
  found = schedule(inverse(schedule, noise)).log_1m_alpha[..., 0]
  # The law is in the noise level: t itself is ill-determined where it is flat.
  np.testing.assert_allclose(jnp.exp(found), jnp.exp(noise), atol=3e-6)
  np.testing.assert_allclose(inverse(schedule, noise[:60]), t[:60], atol=1e-4)


def test_transitions_compose():
  now, then, last = (Cosine()(t) for t in (0.2, 0.5, 0.7))
  np.testing.assert_allclose(
    log_transition(now, last),
    log_transition(now, then) + log_transition(then, last),
    rtol=1e-6,
  )


@pytest.mark.parametrize(
  'make, told',
  [
    (lambda: Linear(1.0), 'eps=1.0'),
    (lambda: Cosine(-0.1), 'eps=-0.1'),
    (lambda: Polynomial(0.0), 'power=0.0'),
    (lambda: Sine(-0.1), 'eps=-0.1'),
    (lambda: Squeezed(Linear(), 0.5), 'eps=0.5'),
    (lambda: PolynomialPerToken(jnp.ones(3), 1.0), 'eps=1.0'),
    (lambda: Geometric(0.0, 1.0), 'sigma_min=0.0'),
    (lambda: LinearSigma(2.0, 1.0), 'sigma_max=1.0'),
  ],
)
def test_bad_settings_are_named(make, told):
  with pytest.raises(UserError, match=told):
    make()
