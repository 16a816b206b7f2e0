"""Times of each position, and schedules made of schedules."""

import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.core.types import UserError
from textdiffusion.schedules.times import (
  fine_walk,
  multi_level,
  num_fine_steps,
)
from textdiffusion.schedules.variances import Rescaled, SquareRoot


@pytest.mark.parametrize('length, steps', [(5, 20), (16, 2000)])
def test_multi_level_is_the_published_line(length, steps):
  """Algorithm 1 with whole numbers: every s of 0 ... L - 1 + T - 1."""
  for s in range(0, length + steps - 1, 7):
    place, level = max(length - 1 - s, 0), max(s - (length - 1), 0)
    slope = (steps - 1 - level) / (2 * length - place)
    want = [slope * (i - place) + level for i in range(length)]
    want = np.clip(want, 0, steps - 1) / (steps - 1)
    u = s / (length + steps - 2)
    np.testing.assert_allclose(multi_level(u, length, steps), want, atol=1e-5)


def test_multi_level_goes_from_none_to_all_and_left_first():
  u = jnp.linspace(0, 1, 101)
  t = np.asarray(multi_level(u, 9, 50))
  assert t.shape == (101, 9)
  assert (t[0] == 0).all() and (t[-1] == 1).all()
  assert (np.diff(t, axis=1) >= 0).all() and (np.diff(t, axis=0) >= -1e-6).all()


@pytest.mark.parametrize('steps', [20, 400])
@pytest.mark.parametrize('length', [1, 3, 9])
def test_a_fine_walk_leaves_out_no_level_at_the_start(length, steps):
  """From all clean to all noise, never back, at most two levels a step; each
  position's first noisy level is 1 / T."""
  index = jnp.arange(num_fine_steps(length, steps) + 1)
  level = np.asarray(fine_walk(index, length, steps)) * steps
  np.testing.assert_allclose(level, np.round(level), atol=1e-4)
  level = np.round(level)
  assert (level[0] == 0).all() and (level[-1] == steps).all()
  moved = np.diff(level, axis=0)
  assert (moved >= 0).all() and (moved <= 2).all()
  first = np.where(level > 0, level, steps).min(0)
  np.testing.assert_array_equal(first, 1)


@pytest.mark.parametrize('factor', [1.0, 2.0, 4.0])
def test_noise_of_a_larger_spread(factor):
  """Signal over noise falls by the square of the factor, at every step."""
  signal = lambda betas: np.cumprod(1 - betas)
  plain = signal(SquareRoot().betas(100))
  more = signal(Rescaled(SquareRoot(), factor).betas(100))
  ratio = plain / (1 - plain) / (more / (1 - more))
  np.testing.assert_allclose(ratio, factor**2, rtol=1e-6)
  with pytest.raises(UserError, match='factor=0'):
    Rescaled(factor=0)
