"""SSD-LM and TESS against the numbers of their official code; see `case`."""

import jax.numpy as jnp
import pytest

from tests.golden.case import Case, close
from tests.models import FunctionNetwork
from textdiffusion.core.types import (
  X0,
)
from textdiffusion.nn.network import View
from textdiffusion.nn.wrappers import OnSimplex
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.schedules.variances import SquaredCosine, tabulated

pytestmark = pytest.mark.usefixtures('x64')
EXACT = {'rtol': 1e-9, 'atol': 1e-12}


def test_ssd_lm_schedule():
  g = Case('ssd_lm', 'time_variables', 't')
  size = g.settings['T']
  schedule = tabulated(SquaredCosine(g.settings['offset']), size)
  process = VariancePreserving(schedule)
  t, one = g['t'] / size, jnp.ones((len(g['t']), 1))
  s = t - 1 / size
  signal = lambda t: jnp.exp(schedule(t).log_alpha[..., 0])
  close(signal(t), g['alpha_t_bar'], **EXACT)
  close(signal(s), g['alpha_t_minus_bar'], **EXACT)
  close(1 - signal(t) / signal(s), g['beta_t'], **EXACT)
  close(signal(t) / signal(s), g['alpha_t'], **EXACT)
  variance = process.bridge(X0(one), one, s, t).std[..., 0] ** 2
  close(variance, g['beta_t_til'], **EXACT)
  g.assert_all_compared()


def test_tess():
  """Official step i has the signal of t = i / T, and its last step ends at 0.
  Its corners are -k and k, ours -1 and 1, seen through a softmax of k x."""
  g = Case('tess', 'simplex', 'ids t noise previous_pred estimate')
  size, scale = g.settings['T'], g.settings['simplex_value']
  states = g.settings['vocab']
  process = VariancePreserving(tabulated(SquaredCosine(1e-4), size))
  grid = jnp.arange(size) / size
  signal = jnp.exp(process.schedule(grid).log_alpha[..., 0])
  close(signal, g['alphas_cumprod'])

  captured = []

  def apply(params, x, t, view):
    captured.append(x)
    return x

  network = OnSimplex(FunctionNetwork(apply), states, scale)
  embedder = network.embedder({})
  corner = embedder.embed(g['ids'])
  close(scale * corner, g['corner'])
  t, noise = (g['t'] / size)[:, None], g['noise'] / scale
  q = process.marginal(corner, t)
  noisy = q.mean + q.std * noise
  close(scale * noisy, g['noisy'])

  segments = jnp.ones(g['ids'].shape, jnp.int32)
  view = View(segments, segments)
  network.hidden({}, noisy, t, view)
  close(captured[-1], g['probs'])
  estimate = embedder.expected(g['previous_pred'])
  shown = jnp.concatenate([noisy, estimate], -1)
  network.hidden({}, shown, t, view)
  close(captured[-1], g['mixed'])

  # `renoise`: the step draws q_s of the estimate, whatever x_t was.
  q = process.marginal(jnp.asarray(g['estimate']) / scale, t - 1 / size)
  close(scale * (q.mean + q.std * noise), g['step'])
  g.assert_all_compared()
