"""XDLM against the numbers of its official code, in float64; see `case`."""

import jax.numpy as jnp
import pytest

from tests.golden.case import Case, close
from textdiffusion.core.types import Cavity
from textdiffusion.objectives.nelbo import (
  rank_one_bound,
  rate_bound,
  step_bound,
)
from textdiffusion.processes.rank_one import mixture
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('x64')
EXACT = {'rtol': 1e-9, 'atol': 1e-11}


@pytest.mark.parametrize('name', ['k0p0', 'k0p1', 'k0p5', 'k1p0'])
def test_loss_and_steps(name):
  g = Case('xdlm', name, 'x0 z_t logits t s')
  settings = g.settings
  states, mask_id = settings['vocab'], settings['mask_id']
  # The official uniform part is over all states, the mask among them; here it
  # is over tokens only. That is the same process at another share.
  share = settings['k1'] * (states - 1) / states
  process = mixture(states, mask_id, Linear(settings['eps']), share)
  x0, z = g['x0'], g['z_t']
  t, s = g['t'][:, None], g['s'][:, None]
  head = Cavity(jnp.asarray(g['logits']).at[..., mask_id].set(-jnp.inf))
  for time, key in ((g['t'], 'alpha_t'), (g['s'], 'alpha_s')):
    close(jnp.exp(process.schedule(time).log_alpha[..., 0]), g[key], **EXACT)
  for bound in (rank_one_bound, rate_bound):
    nats = bound(process, x0, head, z, t)
    close(nats, g['loss'], **EXACT)
    close(nats / (1 - settings['eps']), g['loss_simple'], **EXACT)
  close(step_bound(process, x0, head, z, s, t), g['kl_finite'], **EXACT)
  probs = jnp.exp(process.bridge(head, z, s, t).log_probs)
  close(probs, g['step_probs'], **EXACT)
  g.assert_all_compared()
