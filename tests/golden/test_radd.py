"""RADD against the numbers of its official code, in float64; see `case`."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import Case, close
from textdiffusion.core.types import Cavity
from textdiffusion.methods.radd import dce_bound
from textdiffusion.objectives.nelbo import masked_bound
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.schedules.noise import Geometric, Linear

pytestmark = pytest.mark.usefixtures('x64')
EXACT = {'rtol': 1e-10, 'atol': 1e-12}
BOUNDS = {'t_DSE': masked_bound, 't_DCE': dce_bound}


def load(pattern, inputs=''):
  """The case, of which a test compares what matches the pattern."""
  g = Case('radd', 'losses', inputs)
  chosen = {match[0] for match in g.find(pattern)} | g.inputs
  g.left_out = {key: 'of another test here' for key in g if key not in chosen}
  return g


def schedules(g):
  settings = g.settings
  return {
    'loglinear': Linear(settings['loglinear_eps']),
    'geometric': Geometric(settings['sigma_min'], settings['sigma_max']),
  }


def head(g):
  """The network's output; a mask is impossible."""
  masked = np.full((*g['logits'].shape[:-1], 1), -np.inf)
  return Cavity(np.concatenate([g['logits'], masked], -1))


@pytest.mark.parametrize('name', ['loglinear', 'geometric'])
def test_schedules(name):
  g = load(f'{name}_.*', 't_grid')
  level = schedules(g)[name](g['t_grid'])
  # Official sigmas of the geometric schedule are float32 numbers.
  tolerance = EXACT if name == 'loglinear' else {}
  close(-level.log_alpha[..., 0], g[f'{name}_sigma'], **tolerance)
  close(level.hazard[..., 0], g[f'{name}_dsigma'], **tolerance)
  g.assert_all_compared()


@pytest.mark.parametrize('name', ['loglinear', 'geometric'])
@pytest.mark.parametrize('loss', BOUNDS)
def test_losses_over_t(loss, name):
  g = load(f'{loss}_{name}', f'x0 logits t {loss}_{name}_z')
  settings, z = g.settings, g[f'{loss}_{name}_z']
  assert (z == settings['mask_id']).any()
  process = absorbing(
    settings['vocab'], settings['mask_id'], schedules(g)[name]
  )
  nats = BOUNDS[loss](process, g['x0'], head(g), z, g['t'][:, None])
  tolerance = EXACT if name == 'loglinear' else {}
  close(nats.sum(-1), g[f'{loss}_{name}'], **tolerance)
  g.assert_all_compared()


def test_loss_over_lambda():
  g = load('lambda_DCE', 'x0 logits lambda lambda_DCE_z')
  settings, z = g.settings, g['lambda_DCE_z']
  process = absorbing(settings['vocab'], settings['mask_id'], Linear())
  nats = masked_bound(process, g['x0'], head(g), z, g['lambda'][:, None])
  close(nats.sum(-1), g['lambda_DCE'], **EXACT)
  g.assert_all_compared()


def test_loss_over_k():
  g = load('k|k_DCE', 'x0 logits k_DCE_z')
  settings, z = g.settings, g['k_DCE_z']
  is_masked = z == settings['mask_id']
  close(is_masked.sum(-1), g['k'])
  process = absorbing(settings['vocab'], settings['mask_id'], Linear())
  # `AnyOrder` is the bound of alpha = 1 - t at t = k / L.
  time = (g['k'] / settings['L'])[:, None]
  nats = masked_bound(process, g['x0'], head(g), z, time)
  close(nats.sum(-1), g['k_DCE'])
  g.assert_all_compared()


def test_steps():
  g = load('update_rate_.*', 'step_times')
  settings = g.settings
  process = absorbing(
    settings['vocab'],
    settings['mask_id'],
    Linear(settings['loglinear_eps']),
  )
  times = g['step_times']
  z = jnp.full(1, settings['mask_id'])
  some = Cavity(jnp.zeros((1, settings['vocab'])).at[0, -1].set(-jnp.inf))
  revealed, frozen = [], []
  for t, s in zip(times[:-1], times[1:], strict=True):
    probs = jnp.exp(process.bridge(some, z, s, t).log_probs)
    revealed.append(1 - probs[0, settings['mask_id']])
    level = process.schedule(t)
    rate = level.hazard * jnp.exp(level.log_alpha - level.log_1m_alpha)
    frozen.append((t - s) * rate[0])
  close(jnp.stack(revealed), g['update_rate_tweedie'], **EXACT)
  # The official Euler step freezes the rate at t.
  close(jnp.stack(frozen), g['update_rate_euler'], **EXACT)
  g.assert_all_compared()
