"""Duo against the numbers of its official code; see `case`."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import case
from tests.golden.case import close, equal
from textdiffusion.core.types import Cavity, LogScore
from textdiffusion.objectives.duality import Curriculum
from textdiffusion.objectives.nelbo import Nelbo, masked_bound, rate_bound
from textdiffusion.processes.duality import Duality
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers.filters import filtered
from textdiffusion.schedules.duality import (
  argmax_logit,
  gaussian_argmax,
  series,
  series_coefficients,
)
from textdiffusion.schedules.noise import Linear, NoiseLevel, from_noise

pytestmark = pytest.mark.usefixtures('x64')
NAMES = ('log_linear', 'cosine')
INPUTS = {
  'schedules': 't',
  'uniform_loss': 'x0 xt logits t s',
  'uniform_sampler': 'xt logits t dt',
  'absorb': 'x0 xt logits tb dt',
  'curriculum': 'x0 logits eps t t_b gamma_q tau_steps',
}
# Arrays that no test compares, and why.
POLY = 'a polynomial fitted to the quadrature, which is tabulated here instead'
LEFT_OUT = {
  'curriculum': {
    'poly_coeff': POLY,
    'poly_alpha': POLY,
    'poly_dalpha': POLY,
  },
}


class Case(case.Case):
  def __init__(self, name):
    super().__init__('duo', name, INPUTS[name], LEFT_OUT.get(name))


def probs(dist):
  return jnp.exp(dist.log_probs)


def schedule_of(name, eps):
  """Duo's: both run to (1 - eps) t, and cosine is 1 - sin(pi / 2 t)."""
  if name == 'log_linear':
    return Linear(eps)
  return lambda t: from_noise(lambda t: jnp.sin(jnp.pi / 2 * (1 - eps) * t), t)


def eps_of_schedules():
  return Case('schedules').settings['eps']


def test_schedules():
  g = Case('schedules')
  eps, t = g.settings['eps'], g['t']
  for name in NAMES:
    level = schedule_of(name, eps)(t)
    close(jnp.exp(level.log_alpha[..., 0]), g[f'{name}_alpha'])
    # The official derivative of the cosine lacks the factor 1 - eps; its
    # cosine of a float32 near pi / 2 is off by 1e-7, absolutely.
    defect = 1 if name == 'log_linear' else 1 / (1 - eps)
    close(-level.rate[..., 0] * defect, g[f'{name}_dalpha'])
    # The official inverse forgets eps: it gives (1 - eps) t. Of the cosine it
    # is an arccos of float32 1 - alpha, steep where alpha is small: 7e-6 lost.
    atol = 1e-6 if name == 'log_linear' else 1e-5
    close((1 - eps) * t, g[f'{name}_t_for_alpha'], atol=atol)
  g.assert_all_compared()


def test_uniform_loss_and_posteriors():
  g, eps = Case('uniform_loss'), eps_of_schedules()
  head, x0, z = Cavity(g['logits']), g['x0'], g['xt']
  t, s = g['t'][:, None], g['s'][:, None]
  for name in NAMES:
    process = uniform(g.settings['V'], schedule_of(name, eps))
    level = process.schedule(g['t'])
    defect = 1 if name == 'log_linear' else 1 / (1 - eps)
    close(jnp.exp(level.log_alpha[..., 0]), g[f'alpha_{name}'])
    close(-level.rate[..., 0] * defect, g[f'dalpha_{name}'])
    # The official alpha of the cosine is 1 - cos in float32, which keeps 6e-8
    # of 0.008, and terms of size 10 cancel.
    loss = rate_bound(process, x0, head, z, t) * defect
    wide = {} if name == 'log_linear' else {'rtol': 2e-5, 'atol': 3e-6}
    close(loss, g[f'loss_{name}'], **wide)
    close(probs(process.marginal(x0, t)), g[f'forward_{name}'])
    exact = process.bridge(process.clean(x0), z, s, t)
    close(probs(exact), g[f'posterior_true_{name}'])
    close(probs(process.bridge(head, z, s, t)), g[f'posterior_model_{name}'])
  g.assert_all_compared()


def psi(process, head, z, s, t, kappa):
  """kappa bridge + (1 - kappa) forward noise of the bridge to 0."""
  clean = process.bridge(head, z, jnp.zeros_like(t), t)
  renoised = process.marginal(clean.log_probs, s)
  back = probs(process.bridge(head, z, s, t))
  return kappa * back + (1 - kappa) * probs(renoised)


def test_uniform_samplers():
  g, eps = Case('uniform_sampler'), eps_of_schedules()
  head, z, t = Cavity(g['logits']), g['xt'], g['t']
  s = t - g['dt']
  nucleus = Cavity(filtered(g['logits'], 1.0, 0, 0.8))
  close(jax.nn.log_softmax(nucleus.logits), g['nucleus_logp'])
  for name in NAMES:
    process = uniform(g.settings['V'], schedule_of(name, eps))
    mine = probs(process.bridge(head, z, s, t))
    for kind in (0, 1):
      close(mine, g[f'ancestral_{name}_f64_{kind}'])
    last = process.bridge(head, z, jnp.zeros_like(t), t)
    close(probs(last), g[f'noise_removal_{name}'])
    for kappa in ('0p0', '0p35', '1p0'):
      mixed = psi(process, head, z, s, t, case.number(kappa))
      close(mixed, g[f'psi_kappa{kappa}_{name}'])
    # The official nucleus is of the network's output, before the bridge; that
    # of `filter_denoiser` is of p(x | z), which has one factor more.
    cut = probs(process.bridge(nucleus, z, s, t))
    close(cut, g[f'nucleus0p8_{name}'])

  for profile in ('lin', 'lcl'):
    times = g[f'psi_timesteps_{profile}']
    told = g.meaning(f'psi_timesteps_{profile}')
    close(time_profile(told, len(times)), times)
    for match in g.find(f'kappas_{profile}_(.*)'):
      close(kappas(match[1], times, Linear(eps)), g[match[0]])
  g.assert_all_compared()


def time_profile(told, num):
  """Times by the words of the sidecar."""
  eps = float(re.search(r'eps=([\d.e-]+\d)', told)[1])
  constant = re.search(r'linear-constant-linear-([\d.]+\d)', told)
  if not constant:
    return np.linspace(1, eps, num)
  middle = float(constant[1])
  parts = re.search(r'fractions ([\d.]+)/([\d.]+)/', told).groups()
  first, second = (round(float(x) * num) for x in parts)
  return np.concatenate(
    [
      np.linspace(1, middle, first),
      np.full(second, middle),
      np.linspace(middle, eps, num - first - second),
    ]
  )


def kappas(mode, times, schedule):
  """kappa = 1 - sigma / (1 - alpha_s) for ReMDM's sigma; or constant."""
  constant = {'pure_posterior': 1.0, 'pure_pc': 0.0}
  if mode in constant:
    return np.full(len(times), constant[mode])
  kind, eta = mode.rsplit('_', 1)
  eta = case.number(eta)
  if kind == 'constant':
    return np.full(len(times), eta)
  alpha = np.exp(schedule(times).log_alpha[:, 0])
  before, after = alpha[:-1], alpha[1:]
  sigma = {
    'max_capped': np.minimum(eta, (1 - after) / before),
    # The official code has eta twice; ReMDM's rescaling is eta min(1, ...).
    'max_rescale': eta * np.minimum(eta, (1 - after) / before),
    'constant_remdm': eta,
  }[kind]
  return np.append(np.clip(1 - sigma / (1 - after), 0, 1), 1.0)


def test_absorbing_process():
  g, eps = Case('absorb'), eps_of_schedules()
  head, x0, z, t = Cavity(g['logits']), g['x0'], g['xt'], g['tb']
  s, size, mask = t - g['dt'], g.settings['V'], g.settings['mask']
  equal(t[:, 0], g['t'])
  for name in NAMES:
    process = absorbing(size + 1, mask, schedule_of(name, eps))
    defect = 1 if name == 'log_linear' else 1 / (1 - eps)
    loss = masked_bound(process, x0, head, z, t)
    close(loss * defect, g[f'mdlm_loss_{name}'])
    close(probs(process.bridge(head, z, s, t)), g[f'mdlm_ancestral_{name}'])
    for kappa in ('0p0', '0p35'):
      mixed = psi(process, head, z, s, t, case.number(kappa))
      close(mixed, g[f'mdlm_psi_kappa{kappa}_{name}'])
  # SEDD's output, less log(exp(sigma) - 1) and log V, is the log score.
  process = absorbing(size + 1, mask, Linear(eps))
  level = process.schedule(t)
  score = g['logits'] - (level.log_1m_alpha - level.log_alpha) - np.log(size)
  score = jnp.where(z[..., None] == np.arange(size + 1), 0.0, score)
  close(rate_bound(process, x0, LogScore(score), z, t), g['sedd_loss'])
  g.assert_all_compared()


def test_curriculum():
  g = Case('curriculum')
  check_signal(g)
  told = re.search(
    r'tau (\S+) -> (\S+) between steps (\d+) and (\d+)',
    g.meaning('tau_inverse'),
  )
  first, last, start, end = map(float, told.groups())
  duality, bound = duality_of(g), Nelbo()
  curriculum = Curriculum(duality, bound, int(end), int(start), (first, last))

  steps, official = g['tau_steps'], g['tau_inverse']
  within = steps < end
  close(1 / curriculum.temperature(steps)[within], official[within])
  # From then on theirs is 0 in all but name, for one step; here the bound
  # begins with that step.
  close(np.full(sum(~within), 1e10), official[~within])
  assert within.any()

  x0, t = g['x0'], g['t_b'][:, None]
  w = duality.latent(x0, g['eps'], t)
  step = int(re.search(r'at step (\d+)', g.meaning('net_input'))[1])
  close(w / curriculum.temperature(step), g['net_input'])
  # The loss recorded is with the signal of the series: negative where that
  # rises. It is linear in the rate.
  gamma = duality.schedule.gamma(t)[:, 0]
  num = g.settings['n_series_terms']
  alpha, slope = (x[:, None] for x in series(gamma, g.settings['V'], num))
  close(-np.log(alpha), g['net_sigma'])
  level = NoiseLevel(
    *jnp.log(jnp.stack([alpha, 1 - alpha])), jnp.ones_like(alpha)
  )
  level = NoiseLevel(*(x[..., None] for x in level))
  process = uniform(g.settings['V'], lambda t: level)
  head, z = Cavity(g['logits']), jnp.argmax(w, -1)
  rate = -slope * (g.settings['gamma_max'] - g.settings['gamma_min'])
  mine = rate * rate_bound(process, x0, head, z, t)
  close(mine, g['curriculum_loss'])
  g.assert_all_compared()


def duality_of(g):
  size = g.settings['V']
  low, high = g.settings['gamma_min'], g.settings['gamma_max']
  return Duality(gaussian_argmax(size, low, high), size)


def check_signal(g):
  size, t, gamma = g.settings['V'], g['t'], g['gamma']
  schedule = duality_of(g).schedule
  width = schedule.gamma_max - schedule.gamma_min
  close(schedule.gamma(t), gamma)

  num = g['coeff_m'].shape[1]
  assert num == g.settings['n_series_terms']
  c = series_coefficients(size, num + 1)
  close(c[:-1], g['coeff_m'][0])
  close(np.arange(1, num + 1) * c[1:], g['coeff_i'][0])
  alpha, slope = series(gamma, size, num)
  close(alpha, g['alpha_series'])
  close(slope * width, g['dalpha_series'])

  logit, slope = argmax_logit(g['gamma_q'], size)
  alpha, noise = 1 / (1 + np.exp(-logit)), 1 / (1 + np.exp(logit))
  close(alpha + noise / size, g['pt_quad'])
  close(slope * alpha * noise * (1 - 1 / size), g['grad_pt_quad'], atol=1e-9)

  # So few terms of the series give a signal that is wrong by 0.2 and rises.
  level = schedule(t)
  right = np.exp(level.log_alpha[:, 0])
  close(right, series(gamma, size, 150)[0], rtol=1e-8)
  assert abs(right - g['alpha_series']).max() > 0.1
  assert (g['dalpha_series'] > 0).any() and (level.rate > 0).all()
