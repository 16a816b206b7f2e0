"""Schedules in discrete time, and those fitted to token frequencies."""

import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.core.types import UserError
from textdiffusion.schedules import grids
from textdiffusion.schedules.betas import (
  CosineBetas,
  InverseTime,
  LinearBetas,
  MutualInformation,
  from_betas,
  matrix_removal,
  uniform_removal,
)
from textdiffusion.schedules.noise import Linear
from textdiffusion.schedules.times import discrete, place, snapped

pytestmark = pytest.mark.usefixtures('x64')
ZIPF = 1 / np.arange(1, 31)


@pytest.mark.parametrize(
  'schedule', [InverseTime(), LinearBetas(0.01, 0.5), CosineBetas()]
)
def test_alphas_are_exact_products(schedule):
  betas = schedule.betas(50)
  assert betas.shape == (50,) and (betas > 0).all() and (betas <= 1).all()
  table = from_betas(betas)
  level = table(jnp.arange(51) / 50)
  alpha = np.exp(level.log_alpha[:, 0])
  np.testing.assert_allclose(alpha, np.cumprod([1, *(1 - betas)]), atol=1e-15)
  np.testing.assert_allclose(np.exp(level.log_1m_alpha[:, 0]), 1 - alpha)
  np.testing.assert_allclose(level.rate[1:, 0], -50 * np.diff(alpha))


def test_inverse_time_is_the_linear_schedule_on_its_grid():
  t = jnp.arange(101) / 100
  mine, linear = from_betas(InverseTime().betas(100))(t), Linear()(t)
  np.testing.assert_allclose(
    np.exp(mine.log_alpha), np.exp(linear.log_alpha), atol=1e-14
  )
  assert mine.log_alpha[-1] == -jnp.inf and mine.log_1m_alpha[0] == -jnp.inf


def test_times_take_the_nearest_place():
  np.testing.assert_array_equal(
    place(jnp.array([0.0, 0.24, 0.26, 1.0]), 2), [0, 0, 1, 2]
  )
  s, t = discrete((jnp.arange(1000) + 0.5) / 1000, 1000)
  np.testing.assert_array_equal(place(t, 1000), np.arange(1000) + 1)
  np.testing.assert_array_equal(place(s, 1000), np.arange(1000))


@pytest.mark.parametrize('steps', [1, 7, 30, 64])
def test_sampling_grids_fit_into_the_steps(steps):
  for grid in (grids.uniform(steps), grids.cosine(steps)):
    i = np.asarray(place(snapped(grid, 64), 64))
    assert i[0] == 64 and i[-1] == 0 and (np.diff(i) < 0).all()
    if steps <= 7:
      assert abs(i / 64 - grid).max() < 1 / 64


def test_mutual_information_falls_evenly():
  p = ZIPF / ZIPF.sum()
  exponents = MutualInformation().exponents(p, 20)
  assert exponents[0] == 0 and np.isinf(exponents[-1])
  removed = uniform_removal(exponents[:-1], p)
  np.testing.assert_allclose(removed, np.arange(20) / 20, atol=1e-9)
  # The same by the definition, with the matrix written out.
  for exponent, share in list(zip(exponents[:-1], removed, strict=True))[
    1:-1:6
  ]:
    kept = np.exp(-exponent)
    matrix = kept * np.eye(30) + (1 - kept) / 30
    np.testing.assert_allclose(matrix_removal(matrix, p), share, rtol=1e-9)


def test_bad_choices_name_the_value():
  with pytest.raises(UserError, match='beta_min=0.5, beta_max=0.1'):
    LinearBetas(0.5, 0.1)
  with pytest.raises(UserError, match='one kind of token'):
    MutualInformation().exponents(np.array([1.0, 0.0]), 4)
  with pytest.raises(UserError, match='choose another method.schedule'):
    MutualInformation().betas(4)
