"""UDLM and its guidance against the numbers of the official code."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import Case, close, number
from tests.models import FunctionModel
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import Cavity
from textdiffusion.guidance import ClassifierGuided, Guided
from textdiffusion.objectives.nelbo import (
  rank_one_bound,
  rate_bound,
  step_bound,
)
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.schedules.noise import Linear

INPUTS = {
  'uniform': 'x0 xt logits t s',
  'guidance': 'xt xt_absorb t s logits logits_uncond logits_absorb '
  'logits_uncond_absorb classifier_log_prob classifier_log_prob_absorb',
}
pytestmark = pytest.mark.usefixtures('x64')


def normalised(weights):
  return weights / weights.sum(-1, keepdims=True)


def probs(dist):
  return jnp.exp(dist.log_probs)


def guided(process, heads, weight):
  models = (FunctionModel(lambda x, t, h=head: h, process) for head in heads)
  return Guided(*models, weight)


def test_loss_and_posteriors():
  g = Case('udlm', 'uniform', INPUTS['uniform'])
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
  for match in g.find(r'diffusion_loss_T(\d+)'):
    name, steps = match[0], int(match[1])
    index = np.floor(t.astype(np.float32) * np.float32(steps))
    t_T = jnp.minimum((index + 1) / steps, 1 - 1e-4)  # the official clamp
    kl = step_bound(process, x0, head, xt, t_T - 1 / steps, t_T)
    # T times a difference of logarithms of float32: T * 1e-6.
    close(steps * kl, g[name], rtol=1e-4, atol=1e-6 * steps)
    close(steps * kl + recon, g[f'loss_T{steps}'], rtol=1e-4, atol=1e-6 * steps)
  g.assert_all_compared()


def test_guidance():
  """Of the reverse step for uniform noise, of the head for absorbing; by a
  classifier, of the reverse step for both."""
  g = Case('udlm', 'guidance', INPUTS['guidance'])
  t, s, size = g['t'][:, None], g['s'][:, None], g.settings['V']
  even, xt = uniform(size, Linear()), g['xt']
  heads = Cavity(g['logits']), Cavity(g['logits_uncond'])
  # Probabilities of float32 to powers up to 3, renormalised: 3e-5.
  rtol = 3e-5
  close(probs(even.bridge(heads[0], xt, s, t)), g['uniform_ddpm'])
  for match in g.find('uniform_cfg_(.*)'):
    mine = guided(even, heads, number(match[1])).reverse(xt, s, t)
    close(probs(mine), g[match[0]], rtol)

  masked, xt_absorb = absorbing(size + 1, size, Linear()), g['xt_absorb']
  is_masked = xt_absorb == size
  heads = Cavity(g['logits_absorb']), Cavity(g['logits_uncond_absorb'])
  unguided = probs(masked.bridge(heads[0], xt_absorb, s, t))
  close(unguided[is_masked], normalised(g['absorb_ddpm'])[is_masked])
  subs = masked.clean_log_probs(heads[0].logits)
  close(jnp.exp(subs)[is_masked], np.exp(g['subs_log_p'])[is_masked])
  for match in g.find('absorb_cfg_final_(.*)'):
    name, weight = match[0], number(match[1])
    mine = probs(guided(masked, heads, weight).reverse(xt_absorb, s, t))
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
    for match in g.find(f'{kind}_cbg_(.*)'):
      name, weight = match[0], number(match[1])
      model = FunctionModel(lambda x, t, head=head: head, process)
      log_prob = lambda x, t, c=classifier: c
      guided_by = ClassifierGuided(model, log_prob, weight)
      mine = guided_by.reverse(x, s, t, process.bridge)
      close(probs(mine), g[name], rtol)
  g.assert_all_compared()
