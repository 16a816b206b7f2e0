"""AR-Diffusion against the numbers of its official code; see `case`."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import Case, close
from textdiffusion.core.types import X0
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.schedules.times import multi_level
from textdiffusion.schedules.variances import SquareRoot, tabulated

pytestmark = pytest.mark.usefixtures('x64')
LEFT_OUT = {'levels_scale3': "no form of it here: the end point is the paper's"}


def test_levels_and_skips():
  g = Case('ar_diffusion', 'steps', 't next_t x_t x0', LEFT_OUT)
  size, length = g.settings['T'], g.settings['L']
  # Their last index moves the point beyond the last step; times are clipped.
  u = np.arange(size + length - 1) / (size + length - 2)
  levels = multi_level(jnp.asarray(u), length, size) * (size - 1)
  official = g['levels_scale2']
  close(jnp.round(levels), official[:-1])
  close(official[-1], np.full(length, size - 1))

  betas = SquareRoot().betas(size)
  close(betas, g['betas'], rtol=1e-10)
  # Official step i has the signal of t = (i + 1) / T.
  process = VariancePreserving(tabulated(SquareRoot(), size))
  t, s = (g['t'] + 1) / size, (g['next_t'] + 1) / size
  step = process.bridge(X0(jnp.asarray(g['x0'])), g['x_t'], s, t)
  assert (g['t'] > g['next_t']).all() and (np.ptp(g['t'], -1) > 0).any()
  # Their signals are rounded to float32 before they are divided.
  close(step.mean, g['mean'])
  close(jnp.broadcast_to(step.std**2, step.mean.shape), g['variance'])
  g.assert_all_compared()
