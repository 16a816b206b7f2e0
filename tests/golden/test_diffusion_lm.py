"""Diffusion-LM and DiffuSeq: schedules, coefficients and reverse steps."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import Case, close, equal, within
from tests.models import FunctionModel, TableEmbedder
from textdiffusion.core.distributions import Categorical, Normal
from textdiffusion.core.types import (
  X0,
  Eps,
  Facts,
)
from textdiffusion.objectives.end_to_end import EndToEnd
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  to_eps,
  to_x0,
)
from textdiffusion.samplers.latent import nearest
from textdiffusion.schedules.variances import (
  LinearVariances,
  SquaredCosine,
  SquareRoot,
  tabulated,
)

pytestmark = pytest.mark.usefixtures('x64')
SCHEDULES = {
  'linear': LinearVariances(),
  'cosine': SquaredCosine(),
  'sqrt': SquareRoot(),
  'trunc_cos': SquaredCosine(0.1, shifted=True),
  'trunc_lin': LinearVariances(0.01),
  'pw_lin': LinearVariances(0.01, bent=10),
}


@pytest.mark.parametrize(
  'method, name',
  [
    ('diffusion_lm', 'schedules_large'),
    ('diffusion_lm', 'schedules_small'),
    ('diffuseq', 'schedules'),
  ],
)
def test_schedules(method, name):
  """In float64; where a beta is 1 or more, as the linear one of few steps is,
  the signal is gone or, officially, negative."""
  g = Case(method, name)
  for match in g.find('(.*)_betas'):
    key, kind, size = match[0], match[1], g[match[0]].size
    kind = kind.removesuffix('_small').removesuffix('_large')
    mine = SCHEDULES[kind].betas(size)
    close(mine, g[key], rtol=1e-10, atol=1e-12)
    is_proper = np.cumsum(np.asarray(g[key]) >= 1) == 0
    alpha = np.exp(np.cumsum(np.log1p(-mine[is_proper])))
    signal = key.removesuffix('betas') + 'alphas_cumprod'
    close(alpha, g[signal][is_proper], rtol=1e-10, atol=1e-12)
    if f'{kind}_posterior_mean_coef1' in g:
      _coefficients(g, kind, size)
  g.assert_all_compared()


def _coefficients(g, kind, size):
  """Every table of the official class, from alpha(s) and alpha(t)."""
  p = VariancePreserving(tabulated(SCHEDULES[kind], size))
  t = jnp.arange(1, size + 1) / size
  s, one = t - 1 / size, jnp.ones((size, 1))
  is_same = lambda mine, name: close(
    np.asarray(mine)[:, 0], g[f'{kind}_{name}'], rtol=1e-10, atol=1e-12
  )
  level, before = p.schedule(t), p.schedule(s)
  is_same(jnp.exp(before.log_alpha), 'alphas_cumprod_prev')
  is_same(p.marginal(one, t).mean, 'sqrt_alphas_cumprod')
  is_same(p.marginal(one, t).std, 'sqrt_one_minus_alphas_cumprod')
  is_same(level.log_1m_alpha, 'log_one_minus_alphas_cumprod')
  is_same(to_x0(p, Eps(0 * one), one, t).value, 'sqrt_recip_alphas_cumprod')
  is_same(-to_x0(p, Eps(one), 0 * one, t).value, 'sqrt_recipm1_alphas_cumprod')
  is_same(p.bridge(X0(one), 0 * one, s, t).mean, 'posterior_mean_coef1')
  is_same(p.bridge(X0(0 * one), one, s, t).mean, 'posterior_mean_coef2')
  variance = p.bridge(X0(one), one, s, t).std ** 2
  is_same(variance, 'posterior_variance')
  # Theirs takes the variance of the second step for the first, which is 0.
  is_same(jnp.log(_second(variance)), 'posterior_log_variance_clipped')


def _second(values):
  return jnp.concatenate([values[1:2], values[1:]])


def setting(method, name, inputs, left_out=None):
  """(case, process, s and t of its steps as [B, 1])."""
  g = Case(method, name, inputs, left_out)
  size = g.settings['T']
  p = VariancePreserving(tabulated(SCHEDULES[g.settings['schedule']], size))
  t = (jnp.asarray(g['t']) + 1)[:, None] / size
  return g, p, t - 1 / size, t


PREVIOUS = 'the network returned x_{t-1}, a parameterisation the paper drops'
LEFT_OUT = {
  'e2e_PREVIOUS_X_mse': PREVIOUS,
  'e2e_PREVIOUS_X_loss': PREVIOUS,
  'noise_step': 'used by the reverse steps, which are in the other case',
}
CORE = 'emb lm_bias input_ids model_output noise_x0 noise t x_t'


def test_core():
  g, p, s, t = setting('diffusion_lm', 'core', CORE, LEFT_OUT)
  _forward(g, p, s, t)
  for head in ('START_X', 'EPSILON'):
    _losses(g, p, t, head)
  for size in ('LARGE', 'SMALL'):
    _bound(g, p, s, t, size)
  g.assert_all_compared()


def _bound(g, p, s, t, kind):
  """Bits per feature of their bound. Its steps are ours, but of the first one
  it takes a KL of N(Emb, std_0^2) for every x_1, which is no bound: x_1 came of
  the x_start that it forgets (`LatentBound` integrates it out)."""
  size, ids = g.settings['T'], jnp.asarray(g['input_ids'])
  model, embedder = _model(g, X0, p)
  objective, bits = EndToEnd(size), np.log(2)
  start = objective.start(p, embedder.embed(ids), g['noise_x0'])
  q = p.marginal(start, t)
  xt = q.mean + q.std * g['noise']
  variances, is_first = clipped(p, t, size), t * size < 1.5
  large = jnp.where(is_first[..., None], variances['first'], variances['large'])
  variance = large if kind == 'LARGE' else variances['small']
  std = lambda variance: jnp.broadcast_to(jnp.sqrt(variance), xt.shape)
  exact = p.bridge(X0(start), xt, s, t).mean
  said = p.bridge(X0(jnp.asarray(g['model_output'])), xt, s, t).mean
  law = Normal(said, std(variance))
  steps = Normal(exact, std(variances['small'])).kl(law).mean((1, 2)) / bits
  clean = embedder.embed(ids)
  apart = Normal(clean, p.marginal(clean, 1 / size).std + 0 * clean)
  apart = apart.kl(law).mean((1, 2)) / bits
  name = f'vb_FIXED_{kind}'
  kl = jnp.where(is_first[:, 0], apart, steps)
  close(kl, g[f'{name}_kl'])
  nats = objective.terms(model, ids, start, xt, t)['rounding'].mean(1)
  decoder = nats / (bits * clean.shape[-1])
  close(decoder, g[f'{name}_decoder_nll'])
  prior = p.marginal(start, 1.0).kl(p.prior()).mean((1, 2)) / bits
  close(prior, g[f'{name}_kl_T'])
  close(kl + decoder + prior, g[f'{name}_output'])
  close(size * (kl + decoder + prior), g[f'e2e_kl_FIXED_{kind}_loss'])


def _forward(g, p, s, t):
  size, x = g.settings['T'], g['x_t']
  q = p.marginal(x, t)
  wide = lambda value: jnp.broadcast_to(value, x.shape)
  close(q.mean + q.std * g['noise'], g['q_sample'])
  close(q.mean, g['q_mean'])
  close(wide(q.std**2), g['q_variance'])
  close(wide(2 * jnp.log(q.std)), g['q_log_variance'])
  posterior = p.bridge(X0(g['model_output']), x, s, t)
  close(posterior.mean, g['posterior_mean'])
  close(posterior.std**2, g['posterior_variance'])
  variance = clipped(p, t, size)['small']
  close(wide(jnp.log(variance)), g['posterior_log_variance_clipped'])
  close((t * size - 1)[:, 0] * 1000 / size, g['scaled_t'])
  prior = p.marginal(x, 1.0).kl(p.prior()).mean((1, 2)) / np.log(2)
  close(prior, g['prior_bpd'])
  out = g['model_output']
  close(to_eps(p, X0(out), x, t).value, g['eps_from_xstart'])
  close(to_x0(p, Eps(out), x, t).value, g['xstart_from_eps'])
  one = jnp.ones_like(posterior.mean)
  of_x0 = p.bridge(X0(one), 0 * one, s, t).mean
  back = (out - p.bridge(X0(0 * one), x, s, t).mean) / of_x0
  # A float32 difference, divided by a small coefficient.
  within(back, g['xstart_from_xprev'], 1e-6 / of_x0 + 1e-5 * abs(back))
  embedded = jnp.asarray(g['emb'])[g['input_ids']]
  start = embedded + p.marginal(embedded, 1 / size).std * g['noise_x0']
  close(start, g['x_start'])


def _losses(g, p, t, head):
  size, ids = g.settings['T'], jnp.asarray(g['input_ids'])
  model, embedder = _model(g, {'START_X': X0, 'EPSILON': Eps}[head], p)
  objective = EndToEnd(size)
  start = objective.start(p, embedder.embed(ids), g['noise_x0'])
  q = p.marginal(start, t)
  terms = objective.terms(model, ids, start, q.mean + q.std * g['noise'], t)
  mean = {name: term.mean(1) for name, term in terms.items()}
  close(mean['mse'] + mean['first'], g[f'e2e_{head}_mse'])
  close(mean['rounding'], g['decoder_nll'])
  close(mean['prior'], g['tT_loss'])
  close(sum(mean.values()), g[f'e2e_{head}_loss'])
  logits = embedder.logits(g['model_output'])
  simple = -Categorical(logits).log_prob(ids).mean(1)
  close(simple, g['e2e_simple_ce'])


def clipped(p, t, size):
  """[B, 1, 1] variances as theirs: the first step takes that of the second."""
  t = jnp.maximum(t, 2 / size)
  one = jnp.ones((*t.shape, 1))
  return {
    kind: p.bridge(X0(one), one, t - 1 / size, t, variance=kind).std ** 2
    for kind in ('small', 'large')
  } | {
    'first': p.bridge(X0(one), one, t - 1 / size, t).std ** 2,
  }


def test_sampling():
  left_out = dict.fromkeys(
    ('input_ids', 'lm_bias', 'noise_x0', 'noise'), 'used by the other case'
  )
  spaced = ('10', '5_5', 'ddim10', '3_2_4', 'all')
  steps = ' '.join(f'respace_{name}_steps' for name in spaced)
  inputs = f'emb model_output t x_t noise_step {steps}'
  g, p, s, t = setting('diffusion_lm', 'sampling', inputs, left_out)
  for head in ('START_X', 'EPSILON'):
    _reverse_steps(g, p, s, t, head)
  _strided_steps(g, p)
  g.assert_all_compared()


def _reverse_steps(g, p, s, t, head):
  size, x, noise = g.settings['T'], g['x_t'], g['noise_step']
  is_first = (t * size < 1.5)[..., None]
  make = {'START_X': X0, 'EPSILON': Eps}[head]
  x0 = to_x0(p, make(g['model_output']), x, t).value
  table = jnp.asarray(g['emb'])
  distance = jnp.square(x0[..., None, :] - table[None, None]).sum(-1)
  nearest = table[distance.argmin(-1)]
  variances = clipped(p, t, size)
  for match in g.find(f'({head}_.*)_mean'):
    kind = match[1]
    value = nearest if 'round1' in kind else x0
    if 'clip1' in kind:
      value = (
        jnp.clip(nearest, -1, 1) if 'round1' in kind else jnp.clip(x0, -1, 1)
      )
    step = p.bridge(X0(value), x, s, t)
    large = jnp.where(is_first, variances['first'], variances['large'])
    variance = large if 'LARGE' in kind else variances['small']
    close(step.mean, g[f'{kind}_mean'])
    close(value, g[f'{kind}_xstart'])
    log_variance = jnp.broadcast_to(jnp.log(variance), x.shape)
    close(log_variance, g[f'{kind}_logvar'])
    drawn = step.mean + jnp.where(is_first, 0, jnp.sqrt(variance)) * noise
    close(drawn, g[f'{kind}_sample'])
  for eta in (0.0, 0.5, 1.0):
    step = p.bridge(X0(x0), x, s, t, eta)
    name = f'{head}_ddim_eta{eta}'.replace('0.', '0p').replace('1.', '1p')
    close(step.mean + step.std * noise, g[name])
  # Their last step goes on to pure noise, which no time here stands for.
  inner = np.asarray(g['t']) < size - 1
  back = p.bridge(X0(x0), x, t + 1 / size, t, eta=0.0)
  close(back.mean[inner], g[f'{head}_ddim_reverse'][inner])


def _strided_steps(g, p):
  """The betas of fewer steps are ratios of alpha, whichever are chosen."""
  size = g.settings['T']
  for match in g.find('(respace_.*)_steps'):
    name, steps = match[1], g[match[0]]
    alpha = jnp.exp(p.schedule((steps + 1) / size).log_alpha[:, 0])
    before = jnp.concatenate([jnp.ones(1), alpha[:-1]])
    close(1 - alpha / before, g[f'{name}_betas'], rtol=1e-10, atol=1e-12)
    equal(steps, g[f'{name}_map'])


def test_diffuseq():
  inputs = f'{CORE} noise_step input_mask anchor'
  g, p, s, t = setting('diffuseq', 'core', inputs)
  for name in ('px1', 'px0'):
    _diffuseq_losses(g, p, t, name)
  _diffuseq_steps(g, p, s, t)
  g.assert_all_compared()


def _diffuseq_losses(g, p, t, name):
  """As released: noisy source, means over it too. In both cases the target is
  x_start; without predict_xstart what is said of the first step and of the
  tokens is read as noise."""
  size, ids = g.settings['T'], jnp.asarray(g['input_ids'])
  model, embedder = _model(g, X0, p)
  objective = EndToEnd(size)
  start = objective.start(p, embedder.embed(ids), g['noise_x0'])
  is_source = g['input_mask'] == 0
  free = p.marginal(start, t)
  xt = jnp.where(is_source[..., None], start, free.mean + free.std * g['noise'])
  terms = objective.terms(model, ids, start, xt, t)
  said = X0 if name == 'px1' else Eps
  x0 = to_x0(p, said(jnp.asarray(g['model_output'])), xt, t).value
  first = jnp.square(x0 - embedder.embed(ids)).mean(-1)
  is_first = t * size < 1.5
  mse = jnp.where(is_first, first, terms['mse']).mean(1)
  close(mse, g[f'{name}_mse'])
  close(terms['rounding'].mean(1), g['decoder_nll'])
  nll = -Categorical(embedder.logits(x0)).log_prob(ids)
  counted = jnp.where(is_source, 0.0, nll).sum(1) / (~is_source).sum(1)
  close(counted, g[f'{name}_nll'])
  total = mse + terms['rounding'].mean(1) + terms['prior'].mean(1)
  close(total, g[f'{name}_loss'])


def _diffuseq_steps(g, p, s, t):
  """A source at t = 0 is an anchor; official samples put it back by hand."""
  size, x, noise = g.settings['T'], g['x_t'], g['noise_step']
  is_source = (g['input_mask'] == 0)[..., None]
  at = lambda time: jnp.where(is_source[..., 0], 0.0, time)
  q = p.marginal(x, at(t))
  close(q.mean + q.std * g['noise'], g['q_sample_masked'])
  anchored = jnp.where(is_source, g['anchor'], x)
  table = jnp.asarray(g['emb'])
  said = jnp.asarray(g['model_output'])
  is_first = (t * size < 1.5)[..., None]
  variances = clipped(p, t, size)
  large = jnp.where(is_first, variances['first'], variances['large'])
  for name, x0 in (
    ('round0', said), ('round1', table[nearest(table, said)])
  ):  # fmt: skip
    close(p.bridge(X0(x0), x, s, t).mean, g[f'{name}_mean'])
    close(jnp.broadcast_to(jnp.log(large), x.shape), g[f'{name}_logvar'])
    # Of the anchored chain; its own steps are of the positions that are free.
    step = p.bridge(X0(x0), anchored, at(s), at(t), variance='large')
    free = p.bridge(X0(x0), x, s, t).mean
    free += jnp.where(is_first, 0, jnp.sqrt(large)) * noise
    drawn = jnp.where(is_source, step.mean + step.std * noise, free)
    close(drawn, g[f'{name}_sample'])
  for eta, name in ((0.0, 'ddim_eta0p0'), (0.7, 'ddim_eta0p7')):
    step = p.bridge(X0(said), x, s, t, eta)
    anchor = p.bridge(X0(said), anchored, at(s), at(t), eta)
    drawn = jnp.where(is_source, anchor.mean, step.mean + step.std * noise)
    close(drawn, g[name])


def test_seqdiffuseq():
  unused = {'noise_step': 'for steps that the case does not take'}
  g, p, s, t = setting('seqdiffuseq', 'core', f'{CORE} loss_mask', unused)
  size, ids, x = g.settings['T'], jnp.asarray(g['input_ids']), g['x_t']
  model, embedder = _model(g, X0, p)
  objective = EndToEnd(size)
  start = objective.start(p, embedder.embed(ids), g['noise_x0'])
  q = p.marginal(start, t)
  terms = objective.terms(model, ids, start, q.mean + q.std * g['noise'], t)
  error = terms['mse'] + terms['first']
  for name, mask in (('nomask', 0 * ids + 1), ('mask', g['loss_mask'])):
    # Their mask is of all terms but the prior.
    mean = lambda x, mask=mask: (x * mask).sum(1) / mask.sum(1)
    close(mean(error), g[f'{name}_mse'])
    total = mean(error + terms['rounding']) + terms['prior'].mean(1)
    close(total, g[f'{name}_loss'])
  q = p.marginal(x, t)
  close(q.mean + q.std * g['noise'], g['q_sample'])
  step = p.bridge(X0(jnp.asarray(g['model_output'])), x, s, t)
  close(step.mean, g['posterior_mean'])
  close(step.std**2, g['posterior_variance'])
  # Their table [T, L] is flattened, so that step i is read at row i // L; the
  # variance is right of the first steps only.
  wrong = jnp.maximum(g['t'] // x.shape[1], 1)[:, None]
  variance = clipped(p, (wrong + 1) / size, size)['small']
  small = jnp.broadcast_to(jnp.log(variance), x.shape)
  close(small, g['posterior_log_variance_clipped'])
  is_late = g['t'] > 1
  assert (abs(small / jnp.log(step.std**2) - 1)[is_late] > 0.01).all()
  g.assert_all_compared()


def _model(g, make, process):
  """The network that always says the recorded output."""
  table, bias = jnp.asarray(g['emb']), jnp.asarray(g['lm_bias'])
  embedder = TableEmbedder(
    table, lambda x, table: x @ table.T + bias[None, None]
  )
  says = lambda x, t: make(jnp.asarray(g['model_output']))
  return FunctionModel(says, process, Facts(embedder=embedder)), embedder
