"""SEDD against the numbers of its official code; see `case`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import case
from tests.golden.case import close, equal, number, within
from textdiffusion.core.types import LogScore
from textdiffusion.objectives.nelbo import rate_bound
from textdiffusion.objectives.score_entropy import LogScoreHead, score_entropy
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers.score import tweedie
from textdiffusion.schedules.noise import Geometric, Linear, LinearSigma

pytestmark = pytest.mark.usefixtures('x64')
INPUTS = {
  'schedules': 't',
  'absorb': 'x0 xt log_score t transition_sigmas t_sampler dt raw_output',
  'uniform': 'x0 xt log_score t transition_sigmas t_sampler dt',
}
SIGMA = LinearSigma(0.0, 10.0)  # sigma = 10 t: a schedule to reach any sigma


class Case(case.Case):
  def __init__(self, name):
    super().__init__('sedd', name, INPUTS[name])

  def process(self, schedule):
    states, tokens = self.settings['graph_dim'], self.settings['tokens']
    if self.name == 'absorb':
      return absorbing(states, tokens, schedule)
    return uniform(states, schedule)

  @property
  def schedule(self):
    kind, ends = self.settings['noise'].split(' ')
    if kind == 'loglinear':
      return Linear(float(ends.removeprefix('eps=')))
    return Geometric(*map(float, ends.split('..')))


def drawn(weights):
  """What the official draw makes of weights: it never picks a negative one."""
  weights = np.maximum(weights, 0)
  return weights / weights.sum(-1, keepdims=True)


def test_schedules():
  g = Case('schedules')
  names = [m[1] for m in g.find('(.*)_sigma')]
  assert len(names) >= 2
  for name in names:
    kind, *ends = name.split('_')
    schedule = Linear(g.settings['eps'])
    if kind == 'geometric':
      schedule = Geometric(*map(number, ends))
    level = schedule(g['t'])
    log_alpha = level.log_alpha[..., 0]
    close(-log_alpha, g[f'{name}_sigma'])
    # The official rates divide by 1 - (1 - eps) t in float32, rounded to 6e-8:
    # relative to a small alpha. A geometric sigma is a power, precise.
    rtol = 1e-5 + (1.2e-7 / np.exp(log_alpha) if kind != 'geometric' else 0)
    rate, official = level.hazard[..., 0], g[f'{name}_dsigma']
    within(rate, official, 1e-6 + rtol * abs(official))
  g.assert_all_compared()


@pytest.mark.parametrize('name', ['absorb', 'uniform'])
def test_graph_loss_and_steps(name):
  g = Case(name)
  process = g.process(g.schedule)
  head, z, x0 = LogScore(g['log_score']), g['xt'], g['x0']
  t = g['t'][:, None]
  level = process.schedule(t)
  close(-level.log_alpha[..., 0], g['sigma'][:, None])
  close(level.hazard[..., 0], g['dsigma'][:, None])

  # The graph: rows are where a rate or a transition comes from.
  unit = g.process(SIGMA)
  states = jnp.arange(process.num_states)
  own = jnp.eye(process.num_states)
  rate = jnp.broadcast_to(unit.rate(states, 0.3) / 10, own.shape).T
  rate = jnp.where(own, 0.0, rate)
  rate -= own * rate.sum(1, keepdims=True)
  close(rate, g['rate_all'])
  close(rate.T, g['transp_rate_all'])
  assert len(g['transition_sigmas']) >= 2
  for i, sigma in enumerate(g['transition_sigmas']):
    column = jnp.exp(unit.column(states, 0.0, sigma / 10))
    close(column, g['transp_transition_all'][i])
    if 'transition_all' in g:  # of the absorbing graph it is not written
      close(column.T, g['transition_all'][i])

  # The loss. The official uniform graph takes rho = 1 - V / (e^sigma - 1 + V)
  # from 1 in float32, two roundings of 3e-8; the constant of a moved token is
  # about -log(rho) / (rho V), and its derivative is what they cost.
  def lost(sigma):
    rho = np.expm1(sigma) / (np.expm1(sigma) + process.num_states)
    nats = -6e-8 * np.log(rho) / (rho**2 * process.num_states)
    return 1e-6 + (nats if name == 'uniform' else 0 * rho)

  def near(mine, official, atol):
    within(mine, official, atol + 1e-5 * abs(official))

  loss = score_entropy(process, x0, head, z, t)
  general = rate_bound(process, x0, head, z, t)
  np.testing.assert_allclose(loss, general, rtol=1e-9, atol=1e-9)
  summed = loss.shape[-1] * g['dsigma'] * lost(g['sigma'])
  near(loss.sum(-1), g['loss'], summed)
  per_sigma = loss / level.hazard[..., 0]
  near(per_sigma, g['score_entropy'], lost(g['sigma'])[:, None])
  for match in g.find('score_entropy_sigma_(.*)'):
    key, sigma = match[0], number(match[1])
    mine = score_entropy(unit, x0, head, z, sigma / 10) / 10
    near(mine, g[key], lost(sigma))

  # The reverse rates and both steps.
  score = jnp.exp(head.value)
  own = jax.nn.one_hot(z, process.num_states)
  reverse = jnp.where(own, 0.0, process.rate(z, t) * score) / level.hazard
  reverse -= own * reverse.sum(-1, keepdims=True)
  close(reverse, g['reverse_rate'])
  t = g['t_sampler'][:, None]
  hazard = process.schedule(t).hazard
  close(own + g['dt'] * hazard * reverse, g['euler_probs'])
  s = t - g['dt']
  step = process.schedule(s).log_alpha - process.schedule(t).log_alpha
  close(step[..., 0], g['dsigma_step'])
  arrived = process.noise_between(states, s, t)
  before = (score - arrived * score.sum(-1, keepdims=True)) * jnp.exp(step)
  close(before, g['staggered_score'])
  mine = jnp.exp(tweedie(process)(head, z, s, t).log_probs)
  close(mine, drawn(g['analytic_probs']))
  equal(mine.argmax(-1), g['analytic_argmax'])
  mine = jnp.exp(tweedie(process)(head, z, 0.0, t).log_probs)
  close(mine[..., : g.settings['tokens']], drawn(g['denoiser_probs']))
  assert (mine[..., g.settings['tokens'] :] == 0).all()

  if 'raw_output' in g:
    head = functools.partial(LogScoreHead(scale_by_sigma=True), process)
    mine = head(g['raw_output'], z, g['t'][:, None]).value
    close(mine, g['log_score_from_raw'])
  g.assert_all_compared()
