"""UDLM and its guidance against the numbers of the official code."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import Case, close, number
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import Cavity
from textdiffusion.objectives.nelbo import (
  rank_one_bound,
  rate_bound,
  step_bound,
)
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.sampling.guidance import (
  extrapolate,
  guide_bridge,
  guide_by_classifier,
)
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('x64')


def normalised(weights):
  return weights / weights.sum(-1, keepdims=True)


def probs(dist):
  return jnp.exp(dist.log_probs)


def test_loss_and_posteriors():
  g = Case('udlm', 'uniform')
  process = uniform(g.settings['V'], Linear())
  t, s = g['t'][:, None], g['s'][:, None]
  head, x0, xt = Cavity(g['logits']), g['x0'], g['xt']
  # The official loss subtracts ratios of size V / x_bar in float32: 2e-5.
  for bound in (rank_one_bound, rate_bound):
    mine = bound(process, x0, head, xt, t)
    close(mine, g['diffusion_loss_ct'], rtol=2e-5)
  # The official reconstruction is of the same t, on top of the bound, where
  # alpha_0 = 1 leaves nothing to reconstruct: `zero_recon` is the bound.
  recon = -Categorical(head.logits).log_prob(jnp.asarray(x0))
  close(recon, g['recon_loss'])
  close(mine + recon, g['loss_ct_zero_recon0'], rtol=2e-5)
  close(mine, g['loss_ct_zero_recon1'], rtol=2e-5)
  close(probs(process.bridge(process.clean(x0), xt, s, t)), g['posterior_true'])
  close(probs(process.bridge(head, xt, s, t)), g['posterior_model'])
  for name in [k for k in g if re.fullmatch(r'diffusion_loss_T\d+', k)]:
    steps = int(name.removeprefix('diffusion_loss_T'))
    index = np.floor(t.astype(np.float32) * np.float32(steps))
    t_T = jnp.minimum((index + 1) / steps, 1 - 1e-4)  # the official clamp
    kl = step_bound(process, x0, head, xt, t_T - 1 / steps, t_T)
    # T times a difference of logarithms of float32: T * 1e-6.
    close(steps * kl, g[name], rtol=1e-4, atol=1e-6 * steps)
    close(steps * kl + recon, g[f'loss_T{steps}'], rtol=1e-4, atol=1e-6 * steps)
  g.assert_all_used()


def test_guidance():
  """Of the reverse step for uniform noise, of the head for absorbing; by a
  classifier, of the reverse step for both."""
  g = Case('udlm', 'guidance')
  t, s, size = g['t'][:, None], g['s'][:, None], g.settings['V']
  even, xt = uniform(size, Linear()), g['xt']
  heads = Cavity(g['logits']), Cavity(g['logits_uncond'])
  # Probabilities of float32 to powers up to 3, renormalised: 3e-5.
  rtol = 3e-5
  close(probs(even.bridge(heads[0], xt, s, t)), g['uniform_ddpm'])
  for name in [k for k in g if k.startswith('uniform_cfg_')]:
    weight = number(name.rsplit('_', 1)[1])
    mine = guide_bridge(even.bridge, weight)(heads, xt, s, t)
    close(probs(mine), g[name], rtol)

  masked, xt_absorb = absorbing(size + 1, size, Linear()), g['xt_absorb']
  is_masked = xt_absorb == size
  heads = Cavity(g['logits_absorb']), Cavity(g['logits_uncond_absorb'])
  unguided = probs(masked.bridge(heads[0], xt_absorb, s, t))
  close(unguided[is_masked], normalised(g['absorb_ddpm'])[is_masked])
  subs = masked.clean_log_probs(heads[0].logits)
  close(jnp.exp(subs)[is_masked], np.exp(g['subs_log_p'])[is_masked])
  for name in [k for k in g if k.startswith('absorb_cfg_final_')]:
    guided = extrapolate(*heads, number(name.rsplit('_', 1)[1]))
    mine = probs(masked.bridge(guided, xt_absorb, s, t))
    close(mine, normalised(g[name]), rtol)
    # What is given to the draw; visible tokens are then copied over.
    drawn = normalised(g[name.replace('_final', '')])
    close(mine[is_masked], drawn[is_masked], rtol)

  for kind, process, head, x in (
    ('uniform', even, Cavity(g['logits']), xt),
    ('absorb', masked, heads[0], xt_absorb),
  ):
    suffix = '_absorb' if kind == 'absorb' else ''
    classifier = jnp.asarray(g[f'classifier_log_prob{suffix}'])
    for name in [k for k in g if k.startswith(f'{kind}_cbg_')]:
      weight = number(name.rsplit('_', 1)[1])
      guided = guide_by_classifier(
        process.bridge, lambda x, t, c=classifier: c, weight
      )
      close(probs(guided(head, x, s, t)), g[name], rtol)
  g.assert_all_used()
