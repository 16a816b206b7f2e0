"""Sampling grids and training times."""

import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.schedules import grids, times


@pytest.mark.parametrize('grid', [grids.uniform, grids.cosine])
@pytest.mark.parametrize('num_steps', [1, 2, 1000])
def test_a_grid_falls_from_one_to_zero(grid, num_steps):
  t = grid(num_steps)
  assert t.shape == (num_steps + 1,)
  assert t[0] == 1 and t[-1] == 0 and (jnp.diff(t) < 0).all()


def test_the_cosine_grid_is_finer_near_noise():
  steps = -jnp.diff(grids.cosine(64))
  assert steps[0] < steps[-1] / 10


def test_continuous_times_stay_below_one():
  np.testing.assert_array_equal(
    times.continuous(jnp.array([0.25, 1.0])), [0.25, 1 - 2.0**-24]
  )


def test_discrete_times_are_the_intervals_of_the_grid():
  u = jnp.array([0.0, 0.24, 0.26, 0.99, 1.0])
  s, t = times.discrete(u, 4)
  np.testing.assert_array_equal(s, [0, 0, 0.25, 0.75, 0.75])
  np.testing.assert_array_equal(t, [0.25, 0.25, 0.5, 1, 1])


def test_a_plateau_lies_between_two_slopes():
  """ReMDM's settings at 20 steps: 9 to the plateau, 10 on it, 1 to the end."""
  grid = np.asarray(grids.plateau(20, 0.1, t_on=0.55, t_off=0.05))
  assert grid[0] == 1 and grid[-1] == 0 and len(grid) == 21
  np.testing.assert_allclose(grid[:10], np.linspace(1, 0.1, 10), atol=1e-6)
  np.testing.assert_allclose(grid[9:20], 0.1, atol=1e-6)
  assert (np.diff(grid) <= 1e-7).all()


def test_steps_that_do_not_meet_the_corners_stay_in_order():
  for steps in (1, 2, 7, 33):
    grid = np.asarray(grids.plateau(steps, 0.3, t_on=0.61, t_off=0.17))
    assert grid[0] == 1 and grid[-1] == 0 and (np.diff(grid) <= 0).all()
