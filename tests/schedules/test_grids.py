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
