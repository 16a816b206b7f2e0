"""ReMDM against the numbers of its official code; see `case`.

Every official sampler is a choice of sigma here, the two baselines too: the
forward-backward corrector with (alpha_s - alpha_t) / alpha_t, and that of
discrete flow matching with a multiple of it.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import case
from tests.golden.case import close, equal, number
from tests.models import FunctionModel
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import Cavity
from textdiffusion.processes.bridge import to_posterior
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.samplers import remask
from textdiffusion.samplers.base import Chain
from textdiffusion.samplers.filters import filtered
from textdiffusion.samplers.remask import Remask
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KINDS = {
  'forward_backward': 'forward_backward',
  'remdm_cap': 'cap',
  'remdm_rescale': 'rescale',
  'remdm_conf': 'confidence',
  'remdm_loop': 'loop',
}


INPUTS = 'xt logits dt conf t0 t1 t2 t3'
LEFT_OUT = {'x0': 'not used by the official samplers'}


class Case(case.Case):
  def __init__(self):
    super().__init__('remdm', 'reverse_steps', INPUTS, LEFT_OUT)
    self.mask = self.settings['mask_index']
    states = self.settings['vocab_without_mask'] + 1
    self.process = absorbing(states, self.mask, Linear())
    self.head = Cavity(self['logits'])

  def times(self):
    """[(i, t_i)] as recorded."""
    return [(m[1], float(self[m[0]])) for m in self.find(r't(\d+)')]

  def samplers(self, i):
    """(name, Remask) of what was recorded at time i."""
    kinds = '|'.join(KINDS)
    for m in self.find(rf'(({kinds})(?:_eta(\w+))?)_q_t{i}'):
      eta = number(m[3]) if m[3] else 1.0
      if m[2] == 'forward_backward':  # which has none
        eta = Remask.eta
      yield m[1], Remask(kind=KINDS[m[2]], eta=eta)


def probs(dist):
  return np.exp(dist.log_probs)


def normalised(weights):
  return weights / weights.sum(-1, keepdims=True)


def stepped(g, config, s, t, monkeypatch, head=None):
  """(probabilities, the step with argmax for a draw)."""
  seen = []

  def argmax(key, dist):
    seen.append(dist)
    return jnp.argmax(dist.logits, axis=-1)

  # The official state is minus the probability at which a token was drawn.
  is_masked = g['xt'] == g.mask
  log_prob = jnp.log(jnp.where(is_masked, 1.0, -g['conf']))
  model = FunctionModel(lambda x, t: head or g.head, g.process)
  chain = Chain(jnp.asarray(g['xt']), log_prob, 0)
  s, t = (jnp.full(g['xt'].shape, time) for time in (s, t))
  with monkeypatch.context() as patch:
    patch.setattr(remask, 'draw_rows', argmax)
    unused = jax.random.split(jax.random.key(0), len(chain.x))
    after = config.step(unused, model, chain, s, t)
  return probs(seen[0]), after


def on_loop(g, s, t):
  """Times of the process at which the loop has its signal: official branches
  on t, so a step over t_on goes on beyond alpha_on."""
  loop = g.settings['remdm_loop']
  t_on, t_off, most = loop['t_on'], loop['t_off'], loop['alpha_on']
  if t > t_on:
    return [1 - (1 - u) * most / (1 - t_on) for u in (s, t)]
  if t <= t_off:
    return [u * (1 - most) / t_off for u in (s, t)]
  return [1 - most] * 2


@pytest.fixture(scope='module')
def g():
  with jax.enable_x64(True):
    yield Case()


def test_the_loop_is_a_plateau_of_the_grid(g):
  """Where no step crosses a corner; 20 steps of 0.05 have both on the grid."""
  loop = g.settings['remdm_loop']
  ends = loop['t_on'], loop['t_off']
  grid = grids.plateau(20, 1 - loop['alpha_on'], *ends)
  for i, t in enumerate(np.linspace(1, 0, 21)[:-1]):
    s = t - 1 / 20
    if not any(s < end - 1e-9 and t > end + 1e-9 for end in ends):
      close(grid[i + 1], on_loop(g, s, t - 1e-12)[0], atol=1e-9)


def test_remasking(g, monkeypatch):
  assert len(list(g.samplers('0'))) >= 5
  is_masked = g['xt'] == g.mask
  copied = np.eye(g.process.num_states)[g['xt']]
  for i, t in g.times():
    s = t - float(g['dt'])
    for name, config in g.samplers(i):
      ends = on_loop(g, s, t) if config.kind == 'loop' else (s, t)
      mine, after = stepped(g, config, *ends, monkeypatch)
      official, drawn = g[f'{name}_q_t{i}'], g[f'{name}_xs_t{i}']
      if config.kind == 'loop' and ends[0] != ends[1]:
        # Off the plateau the official step is MDLM's, which copies what is
        # visible and records other weights there.
        official = np.where(is_masked[..., None], official, copied)
      if (official < 0).any():
        # A sigma beyond the admissible one, without a check; here it is cut.
        assert config.kind == 'forward_backward'
        sigma, limit = (t - s) / (1 - t), s / (1 - t)
        assert sigma > limit
        there = official[~is_masked][:, g.mask]
        close(np.full(len(there), sigma), there)
        equal(after.x, drawn)
        close(mine[~is_masked][:, g.mask], limit)
        close(mine[is_masked][:, g.mask], 0.0)
        continue
      close(mine, normalised(official))
      equal(after.x, drawn)
      if config.kind == 'confidence':
        conf = np.where(after.x == g.mask, -np.inf, -np.exp(after.log_prob))
        close(conf, g[f'{name}_confnew_t{i}'])


def test_ancestral(g, monkeypatch):
  is_masked = g['xt'] == g.mask
  for i, t in g.times():
    s = t - float(g['dt'])
    mine, after = stepped(g, Remask(kind='cap', eta=0.0), s, t, monkeypatch)
    official = normalised(g[f'mdlm_q_t{i}'])
    close(mine[is_masked], official[is_masked])
    equal(after.x, g[f'mdlm_xs_t{i}'])
    close(probs(g.process.bridge(g.head, g['xt'], s, t)), mine)


def nucleus(g, top_p, t):
  """The official head: the token that crosses top_p is dropped, unless it is
  the first. Here it stays, as in Holtzman et al. 2020."""
  posterior = to_posterior(g.process, g.head, g['xt'], t)
  p = probs(Categorical(posterior.logits))
  order = np.argsort(-p, axis=-1, kind='stable')
  total = np.cumsum(np.take_along_axis(p, order, -1), -1)
  stays = (total <= top_p) | (np.arange(p.shape[-1]) == 0)
  kept = np.zeros_like(stays)
  np.put_along_axis(kept, order, stays, -1)
  here = filtered(posterior.logits, 1.0, 0, top_p) > -np.inf
  more = (here & ~kept).sum(-1)
  assert (kept <= here).all() and (more <= 1).all() and more.any()
  return Cavity(jnp.log(jnp.where(kept, p, 0.0)))


def test_nucleus(g, monkeypatch):
  is_masked = g['xt'] == g.mask
  for name in [m[1] for m in g.find(r'(nucleus_\w+)_q_t0')]:
    for i, t in g.times():
      head = nucleus(g, number(name.removeprefix('nucleus_')), t)
      s = t - float(g['dt'])
      off = Remask(kind='cap', eta=0.0)
      mine, after = stepped(g, off, s, t, monkeypatch, head)
      official = normalised(g[f'{name}_q_t{i}'])
      close(mine[is_masked], official[is_masked])
      equal(after.x, g[f'{name}_xs_t{i}'])


def test_the_corrector_of_discrete_flow_matching(g, monkeypatch):
  """The official step is shortened until its probabilities are some: the
  recorded end of it is the s of the step here. Its rates are a / t of masked
  tokens and b / (1 - t) of visible ones."""
  for i, t in g.times():
    settings = r'steps=(\d+), nucleus_p=(\d+\.\d+)'
    found = re.search(settings, g.meaning(f'dfm_q_t{i}'))
    num_steps, top_p = int(found[1]), float(found[2])
    head = nucleus(g, top_p, t)
    b = 10 * (t * (1 - t)) ** 0.25
    most = 1 / ((b + 1) / t + b / (1 - t))
    s = t - min(most, 1 / num_steps)
    close(s, g[f'dfm_tnext_t{i}'])
    config = Remask(kind='dfm', eta=10.0)
    mine, _ = stepped(g, config, s, t, monkeypatch, head)
    close(mine, normalised(g[f'dfm_q_t{i}']))


def test_all_is_checked(g):
  """Last: the tests above compare them."""
  g.assert_all_compared()
