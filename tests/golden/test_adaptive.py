"""SeqDiffuSeq's schedule for each position, DiffuSeq's choice of times."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import Case, close
from textdiffusion.schedules.adaptive import empty_history, empty_moments, refit
from textdiffusion.schedules.variances import SquareRoot

pytestmark = pytest.mark.usefixtures('x64')
EXACT = {'rtol': 1e-10, 'atol': 1e-12}


def signals(size):
  """[T] of the sqrt schedule."""
  return np.cumprod(1 - SquareRoot().betas(size))


def test_adaptive_schedule():
  inputs = 'ts losses loss_masks'
  g = Case('seqdiffuseq', 'adaptive_schedule', inputs, LEFT_OUT)
  size, length = g['before_alphas_cumprod'].shape
  bins = size // g.settings['loss_update_granu']
  history = empty_history(bins, length)
  for step in range(len(g['ts'])):
    history = history.add(
      g['ts'][step] / size, g['losses'][step], g['loss_masks'][step]
    )
    if step == 4:
      close(history.total, g['history_after_5'], **EXACT)
      close(history.count, g['count_after_5'], **EXACT)
  # The official class writes into the table it had, and the recorded one shows
  # it: only column 0, which a refit leaves alone, is as it was everywhere.
  before = jnp.tile(g['before_alphas_cumprod'][:, :1], (1, length))
  close(signals(size), g['before_alphas_cumprod'][:, 0], **EXACT)
  close(refit(before, history), g['after_alphas_cumprod'], **EXACT)
  close(empty_history(bins, length).total, g['after_history'], **EXACT)
  g.assert_all_compared()


# The variances with their clipped logarithm are flattened, a defect.
TABLES = {
  'before_betas',
  *(
    f'{when}_{table}'
    for when in ('before', 'after')
    for table in (
      'alphas_cumprod_prev',
      'sqrt_alphas_cumprod',
      'sqrt_one_minus_alphas_cumprod',
      'log_one_minus_alphas_cumprod',
      'sqrt_recip_alphas_cumprod',
      'sqrt_recipm1_alphas_cumprod',
      'posterior_variance',
      'posterior_log_variance_clipped',
      'posterior_mean_coef1',
      'posterior_mean_coef2',
    )
  ),
}
LEFT_OUT = dict.fromkeys(
  TABLES, 'follows from alpha by formulas that test_diffusion_lm.py compares'
)


def test_second_moment():
  g = Case('diffuseq', 'lossaware_sampler', 'ts losses')
  size = g.settings['num_timesteps']
  state = empty_moments(size, g.settings['history_per_term'])
  np.testing.assert_array_equal(state.probs(), 1 / size)
  state = state.add(jnp.asarray(g['ts']), jnp.asarray(g['losses']))
  p = state.probs(g.settings['uniform_prob'])
  close(p, g['p'], **EXACT)
  close(1 / (size * p), g['importance'], **EXACT)
  close(p, g['weights'] / g['weights'].sum(), **EXACT)
  g.assert_all_compared()
