"""GIDD against the numbers of its official code; see `case`."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import Case, close, number, within
from textdiffusion.core.types import Cavity
from textdiffusion.objectives.nelbo import (
  bound_weight,
  masked_bound,
  rank_one_bound,
  rate_bound,
)
from textdiffusion.objectives.reweighted import Reweighted
from textdiffusion.processes.rank_one import Hybrid, absorbing, hybrid
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('x64')


def probs(dist):
  return jnp.exp(dist.log_probs)


def schedules():
  return Case('gidd', 'schedules', 't')


def path_of(p_uniform):
  """The schedule with the official B, which for p_uniform = 0 is not 0 but
  exp(log_B), 4e-9: so moved tokens are possible there too."""
  g = schedules()
  name = f'pu{p_uniform:.1f}'.replace('.', 'p')
  odds, gamma = np.exp(g[f'{name}_log_B']), np.exp(g[f'{name}_log_gamma'])
  path = Hybrid(float(odds / (odds + 2**gamma)), float(gamma))
  close(path.p_uniform, p_uniform, rtol=1e-6)
  return path


def test_schedules():
  g = schedules()
  states, mask_id = g.settings['vocab'], g.settings['mask_id']
  names = [m[1] for m in g.find('(.*)_alpha')]
  assert len(names) >= 3
  for name in names:
    p_uniform = number(name[2:])
    plain = Hybrid(p_uniform, g.settings['gamma'])
    close(plain.odds, np.exp(g[f'{name}_log_B']))
    close(np.log(plain.gamma), g[f'{name}_log_gamma'])
    process = hybrid(states, mask_id, path_of(p_uniform))
    level = process.schedule(g['t'])
    # The official 1 - t is of float32: 6e-8 of 1e-4 at the last t.
    close(jnp.exp(level.log_alpha), g[f'{name}_alpha'], atol=1e-7)
    noise = jnp.exp(process.log_noise(jnp.arange(states), g['t'][:, None]))
    close(noise[..., 0], g[f'{name}_betapi'])
  g.assert_all_compared()


@pytest.mark.parametrize('name', ['0p0', '0p1', '0p2', '0p5'])
def test_hybrid(name):
  inputs = 'x0 z_t logits t s attention_mask'
  g = Case('gidd', f'hybrid_pu{name}', inputs)
  check_losses_and_weights(g)
  check_steps(g)
  g.assert_all_compared()


def check_losses_and_weights(g):
  states, mask_id = g.settings['vocab'], g.settings['mask_id']
  path = path_of(g.settings['p_uniform'])
  process = hybrid(states, mask_id, path)
  head, x0, z, t = Cavity(g['logits']), g['x0'], g['z_t'], g['t'][:, None]
  exact, model = process.marginal(x0, t), process.marginal(head.logits, t)
  close(probs(exact), g['q_zt'])
  close(-process.schedule(g['t']).hazard, g['alpha_ratio'])
  signal = jnp.exp(process.schedule(t).log_alpha[..., 0])
  own = bound_weight(process, x0, z, t) / signal
  close(own, g['elbo_weights'])
  # The official divergences are logarithms of float32 probabilities near 1e-9
  # (p_uniform = 0) times weights up to 10: 2e-5.
  for bound in (rank_one_bound, rate_bound):
    elbo = bound(process, x0, head, z, t)
    close(elbo, g['elbo'], rtol=2e-5, atol=5e-6)

  counted = g['attention_mask']
  log_rho = exact.log_prob(jnp.asarray(z)) - model.log_prob(jnp.asarray(z))
  kl, extra = exact.kl(model), jnp.expm1(log_rho) - log_rho
  mean = lambda x, w=1.0: (x * w * counted).sum() / (w * counted).sum()
  for match in g.find('w_((.+)_(.+)_(.+))'):
    tail, kind, least, most = match.groups()
    least, most = number(least), number(most)
    if kind == 'none':
      weight = own
    elif kind == 'clip':
      weight = Reweighted('clipped', least, most).weight(process, x0, z, t)
    else:
      weight = Reweighted('released', least, most).weight(process, x0, z, t)
      # The paper's own weight is another: kept tokens count less early, more
      # late, than by sigmoid(-t).
      paper = Reweighted('dynamic', 0.0, 1e9).weight(process, x0, z, t)
      lam = jnp.log((1 - t) / t)
      want = path.odds / (states - 1) * jnp.exp(-lam / 2) + 0 * z
      close(paper[z == x0], want[z == x0])
    close(weight, g[f'w_{tail}'])
    loss = elbo / own * weight
    close(loss, g[f'loss_{tail}'], rtol=2e-5, atol=5e-6)
    # Its mean is over all positions, padding too; its metrics are not.
    close(loss.mean(), g[f'loss_mean_{tail}'], rtol=2e-5)
    close(mean(elbo), g[f'metric_elbo_{tail}'], rtol=2e-5)
    close(mean(kl, weight), g[f'metric_kl_{tail}'])
    close(mean(extra, weight), g[f'metric_is_{tail}'])


def check_steps(g):
  states, mask_id = g.settings['vocab'], g.settings['mask_id']
  process = hybrid(states, mask_id, path_of(g.settings['p_uniform']))
  head, z = Cavity(g['logits']), g['z_t']
  for match in g.find('step_probs_minp(.*)'):
    least, each = number(match[1]), g[match[0]]
    for s, t, official in zip(g['s'], g['t'], each, strict=True):
      mine = probs(process.bridge(head, z, s, t))
      # min_p is a cut of the reverse step, at a probability of its own.
      mine = jnp.where(mine < least, 0.0, mine)
      close(mine / mine.sum(-1, keepdims=True), official)
  for match in g.find(r'sampler_ts_(\d+)'):
    key = match[0]
    # An even grid inside (1e-4, 1 - 1e-4). The official loop begins at ts[n -
    # 1] and ends with a call of s = t; `grids` have neither defect.
    last = float(re.search(r't_eps=([\d.e-]+\d)', g.meaning(key))[1])
    grid = grids.uniform(int(match[1]))[::-1]
    close(last + (1 - 2 * last) * grid, g[key][:, 0])


def test_masked():
  inputs, no_mask = 'x0 z_t logits t s grid', "does not enter a token's loss"
  g = Case('gidd', 'masked', inputs, {'attention_mask': no_mask})
  eps, mask_id = g.settings['eps'], g.settings['mask_id']
  process = absorbing(g.settings['vocab'], mask_id, Linear(eps))
  head, x0, z = Cavity(g['logits']), g['x0'], g['z_t']
  t, s, is_masked = g['t'][:, None], g['s'][:, None], z == mask_id
  close(probs(process.marginal(x0, t)), g['q_zt'])
  level = process.schedule(g['grid'])
  # sigma of float32: 6e-8 of 1 - t, 1e-4 at the end.
  rtol = 1e-5 + 1.2e-7 / np.exp(level.log_alpha[..., 0])
  for mine, official in (
    (-level.log_alpha, g['sigma_grid']),
    (level.hazard, g['dsigma_grid']),
  ):
    within(mine[..., 0], official, 1e-6 + rtol * abs(official))
  for bound in (masked_bound, rank_one_bound):
    close(bound(process, x0, head, z, t), g['loss'])
  step = probs(process.bridge(head, z, s, t))
  close(step[is_masked], g['step_probs'][is_masked])
  # Visible tokens are drawn anew there and overwritten by a copy.
  g.assert_all_compared()
