"""MDLM against the numbers of its official code; see `case`."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import case
from tests.golden.case import close, equal, number, within
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import Cavity
from textdiffusion.objectives.nelbo import masked_bound, rate_bound, step_bound
from textdiffusion.objectives.score_entropy import LogScoreHead, score_entropy
from textdiffusion.processes.bridge import to_log_score, to_posterior
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.samplers.score import tweedie
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import (
  Cosine,
  CosineSquared,
  Geometric,
  Linear,
  LinearSigma,
  inverse,
)

pytestmark = pytest.mark.usefixtures('x64')
INPUTS = {
  'schedules': 't',
  'subs': 'x0 xt logits t attention_mask',
  'samplers': 'xt logits dt t_sampler',
  'sedd_absorb': 'x0 xt logits t',
}
# Arrays that no test compares, and why.
LEFT_OUT = {
  'samplers': {
    'x0': 'not used by the official samplers',
    't': 'the time of the recorded input, not of the steps',
  },
}


class Case(case.Case):
  def __init__(self, name):
    super().__init__('mdlm', name, INPUTS[name], LEFT_OUT.get(name))

  def process(self, schedule):
    states = self.settings['vocab_without_mask'] + 1
    return absorbing(states, self.settings['mask_index'], schedule)


def normalised(weights):
  return weights / weights.sum(-1, keepdims=True)


def probs(dist):
  return jnp.exp(dist.log_probs)


def level(schedule, t):
  return tuple(x[..., 0] for x in schedule(t))


def by_name(name, eps):
  """'geometric_0p001_1' -> its schedule."""
  kind, *ends = name.split('_')
  one = {'loglinear': Linear, 'cosine': Cosine, 'cosinesqr': CosineSquared}
  if kind in one:
    return one[kind](eps)
  two = {'geometric': Geometric, 'linear': LinearSigma}
  return two[kind](*map(number, ends))


def test_schedules():
  g = Case('schedules')
  eps, t = g.settings['eps'], g['t']
  names = [m[1] for m in g.find('(.*)_sigma')]
  assert len(names) >= 3
  for name in names:
    schedule = by_name(name, eps)
    log_alpha = schedule(t).log_alpha[..., 0]
    close(-log_alpha, g[f'{name}_sigma'])
    # The official rate divides by alpha = 1 - noise in float32, which is
    # rounded to 1.2e-7 (twice where eps is added): relative to a small alpha.
    rtol = 1e-5 + 2.4e-7 / np.exp(log_alpha)
    rate, official = schedule(t).hazard[..., 0], g[f'{name}_dsigma']
    within(rate, official, 1e-6 + rtol * abs(official))
  most, least = g['loglinear_sigma_max'], g['loglinear_sigma_min']
  close(-by_name('loglinear', eps)(1.0).log_alpha[0], most)
  close(eps, least)
  for match in g.find('(.*)_importance_t'):
    name, schedule = match[0], by_name(match[1], eps)
    low, high = (
      (least, most)
      if 'loglinear' in name
      else (schedule.sigma_min, schedule.sigma_max)
    )
    # u moves log(1 - alpha) evenly between the ends.
    ends = [jnp.log(-jnp.expm1(-s)) for s in (low, high)]
    mine = inverse(schedule, ends[0] + t * (ends[1] - ends[0]))
    # 1 - exp(-sigma) in float32 keeps 6e-8 of 1e-3 at the small end.
    close(mine, g[name], rtol=2e-4)
  g.assert_all_compared()


def test_loss():
  g = Case('subs')
  t, z, x0 = g['t'][:, None], g['xt'], g['x0']
  head, eps = Cavity(g['logits']), Case('schedules').settings['eps']
  process = g.process(Linear(eps))
  posterior = to_posterior(process, head, z, t)
  close(probs(Categorical(posterior.logits)), np.exp(g['log_p_x0']))
  for bound in (masked_bound, rate_bound):
    close(bound(process, x0, head, z, t), g['loss_ct'])
  close(jnp.exp(process.schedule(t).log_1m_alpha[..., 0]), g['move_chance'])

  # The change of variables: weight -log(1 - alpha) at the least sigma, eps.
  nll = -Categorical(posterior.logits).log_prob(jnp.asarray(x0))
  least = jnp.log(-jnp.expm1(-eps))
  close(nll * -least, g['loss_ct_change_of_variables'])
  close(nll * -least, g['loss_ct_importance'])
  most = process.schedule(1.0).log_1m_alpha[0]
  close(jnp.exp(least + t * (most - least)), g['move_chance_cov'])

  for name in ('geometric', 'linear', 'cosinesqr', 'cosine'):
    told = g.meaning(f'loss_ct_{name}')
    ends = re.search(rf'{name}: ([\d.e-]+)\.\.([\d.e-]+)', told)
    kind = {'geometric': Geometric, 'linear': LinearSigma}.get(name)
    schedule = kind(*map(float, ends.groups())) if kind else by_name(name, eps)
    close(
      masked_bound(g.process(schedule), x0, head, z, t), g[f'loss_ct_{name}']
    )

  for match in g.find(r'loss_T(\d+)'):
    name, steps = match[0], int(match[1])
    # The official code clamps t to 1 - 1e-4 and has no eps here; it divides
    # float32 differences of 1 - t, hence 3e-5.
    index = np.floor(np.float32(g['t']) * np.float32(steps))
    close((index + 1) / steps, g[f't_T{steps}'])
    t_T = jnp.minimum((index + 1)[:, None] / steps, 1 - 1e-4)
    args = g.process(Linear()), x0, head, z, t_T - 1 / steps, t_T
    close(steps * step_bound(*args), g[name], rtol=3e-5)

  mask = g['attention_mask']
  mine = masked_bound(process, x0, head, z, t)
  close(mine * mask, g['nlls'])
  close((mine * mask).sum() / mask.sum(), g['loss_reduced'])
  g.assert_all_compared()


def test_samplers():
  g = Case('samplers')
  head, z, eps = Cavity(g['logits']), g['xt'], Case('schedules').settings['eps']
  t = g['t_sampler'][:, None]
  s = t - g['dt']
  is_masked = z == g.settings['mask_index']
  for name, used in (('ddpm', eps), ('ddpm_cache', 0.0)):
    mine = probs(g.process(Linear(used)).bridge(head, z, s, t))
    official = normalised(g[f'{name}_q_xs'])
    close(mine[is_masked], official[is_masked])
    best = np.where(is_masked, np.argmax(mine, -1), z)
    equal(best, g[f'{name}_xs_argmax'])
  process = g.process(Linear(eps))
  posterior = to_posterior(process, head, z, t)
  close(probs(Categorical(posterior.logits)), g['p_x0'])
  close(probs(process.bridge(head, z, s, t)), normalised(g['analytic_probs']))
  close(probs(Categorical(posterior.logits)), normalised(g['denoiser_probs']))
  # Of a score, what is negative is never drawn by the official code.
  scores = LogScoreHead(True)(process, g['logits'], z, t)
  mine = probs(tweedie(process)(scores, z, s, t))
  close(mine, normalised(np.maximum(g['sedd_analytic_probs'], 0)))
  # On a visible token the official score is a ratio by zero, clamped.
  score = jnp.exp(to_log_score(process, head, z, t).value)
  close(score[is_masked], g['subs_score'][is_masked])
  for match in g.find(r'sample_timesteps_(\d+)'):
    name, told = match[0], g.meaning(match[0])
    last = float(re.search(r'eps=([\d.e-]+)', told)[1])
    grid = grids.uniform(int(match[1]))
    close(last + (1 - last) * grid, g[name])
    step = g[name.replace('timesteps', 'dt')]
    close((1 - last) / int(match[1]), step)
  g.assert_all_compared()


def test_score_entropy():
  g = Case('sedd_absorb')
  process = g.process(Linear(Case('schedules').settings['eps']))
  z, t = g['xt'], g['t'][:, None]
  head = LogScoreHead(True)(process, g['logits'], z, t)
  close(head.value, g['log_score'])
  level = process.schedule(t)
  close(-level.log_alpha[..., 0], g['sigma'][:, None])
  close(level.hazard[..., 0], g['dsigma'][:, None])
  loss = score_entropy(process, g['x0'], head, z, t)
  close(loss, g['loss'])
  close(loss / level.hazard[..., 0], g['score_entropy'])
  g.assert_all_compared()
