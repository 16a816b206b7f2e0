"""Discrete flow matching against the numbers of its official code.

Official time runs from noise, 0, to data, 1: t there is 1 - t here.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden import case
from tests.golden.case import close, equal, number
from textdiffusion.core.numerics import log_one_hot, pytree
from textdiffusion.core.types import Array, Posterior, Time
from textdiffusion.objectives.flow_matching import flow_bound
from textdiffusion.processes.bridge import restricted_posterior
from textdiffusion.processes.rank_one import RankOne, absorbing, uniform
from textdiffusion.samplers.flow import flow
from textdiffusion.schedules.noise import (
  CosineSquared,
  Linear,
  Power,
  from_sigma,
  inverse,
)

pytestmark = pytest.mark.usefixtures('x64')
INPUTS = {
  'schedules': 't',
  'loss': 'x_0 x_1 x_t t u logits x_t_mask logits_mask',
  'euler': 'x_t x1_draw u_jump source_p',
}
# Arrays that no test compares, and why.
LEFT_OUT = {'euler': {'logits': 'the draw of x_1 from them is recorded'}}
# Ends of the official `VPScheduler`, for Gaussian paths.
VP_BETA = (0.1, 20.0)


class Case(case.Case):
  def __init__(self, name):
    super().__init__('dfm', name, INPUTS[name], LEFT_OUT.get(name))

  def exponents(self, prefix):
    """{'poly0p5': 0.5, ...} of the arrays that begin with `prefix`."""
    found = self.find(rf'{prefix}(poly([\dp]+))(_alpha_t)?')
    return {m[1]: number(m[2]) for m in found}


def level(schedule, official_t):
  """alpha, 1 - alpha, rate at an official time."""
  now = jax.tree.map(lambda x: x[..., 0], schedule(1 - official_t))
  return jnp.exp(now.log_alpha), jnp.exp(now.log_1m_alpha), now.rate


def test_schedules():
  g = Case('schedules')
  convex = {k: Power(n) for k, n in g.exponents('').items()}
  assert len(convex) >= 3
  for name, schedule in {**convex, 'condot': Linear()}.items():
    alpha, noise, rate = level(schedule, g['t'])
    close(alpha, g[f'{name}_alpha_t'])
    close(noise, g[f'{name}_sigma_t'])
    close(rate, g[f'{name}_d_alpha_t'])
    close(-rate, g[f'{name}_d_sigma_t'])
    # The noise whose kappa is the given number, back in official time.
    mine = inverse(schedule, jnp.log1p(-g['t']))
    close(1 - mine, g[f'{name}_kappa_inverse'])
  # Those of Gaussian paths are amplitudes, alpha is the squared one; they keep
  # the variance, so that one number tells all.
  low, high = VP_BETA
  gaussian = {
    'cosine': CosineSquared(),
    'linear_vp': Power(2.0),
    'vp': lambda t: from_sigma(lambda t: low * t + (high - low) * t**2 / 2, t),
  }
  for name, schedule in gaussian.items():
    alpha, noise, rate = level(schedule, g['t'])
    signal, sigma = jnp.sqrt(alpha), jnp.sqrt(noise)
    close(signal, g[f'{name}_alpha_t'])
    close(sigma, g[f'{name}_sigma_t'])
    close(rate / (2 * signal), g[f'{name}_d_alpha_t'])
    close(-rate / (2 * sigma), g[f'{name}_d_sigma_t'])
  g.assert_all_compared()


def velocity(process, head, z, t, h=1e-7):
  """[L, K] d/dt of a step's law, from noise to data, by a difference."""
  law = jnp.exp(flow(process)(head, z, t - h, t).log_probs)
  return (law - jnp.exp(log_one_hot(z, process.num_states))) / h


def test_loss():
  g = Case('loss')
  size, t = g.settings['V'], 1 - g['t'][:, None]
  x0, z, head = g['x_1'], g['x_t'], Posterior(g['logits'])
  names = g.exponents('gkl_')
  assert len(names) >= 2
  for name, n in names.items():
    process = uniform(size, Power(n))
    mine = flow_bound(process, x0, head, z, t)
    close(mine, g[f'gkl_{name}'])
    close(mine.mean(), g[f'gkl_mean_{name}'])
    # The difference quotient is off by h times the squared rate.
    close(velocity(process, head, z, t), g[f'velocity_{name}'], atol=2e-5)
    noise = jnp.exp(process.schedule(t).log_1m_alpha[..., 0])
    drawn = np.where(g['u'] < noise, g['x_0'], x0)
    equal(drawn, g[f'path_sample_{name}'])

    # With a mask source the official posterior may give mass to the mask and
    # change visible tokens: it treats the mask as one more token.
    z_mask, raw = g['x_t_mask'], g['logits_mask']
    plain = uniform(size + 1, Power(n))
    official = g[f'gkl_mask_{name}']
    close(flow_bound(plain, x0, Posterior(raw), z_mask, t), official)
    # Here it can do neither, and what that wasted is saved.
    masked = absorbing(size + 1, size, Power(n))
    own = restricted_posterior(masked, jnp.asarray(raw), z_mask, t)
    mine = flow_bound(masked, x0, own, z_mask, t)
    is_masked = z_mask == size
    here = jnp.take_along_axis(
      jax.nn.log_softmax(raw), z_mask[..., None], axis=-1
    )[..., 0]
    now = masked.schedule(t)
    weight = (now.rate * jnp.exp(-now.log_1m_alpha))[..., 0]
    # On masks -p(m) - log p(x) instead of -log p(x) + log(1 - p(m)).
    saved = jnp.where(
      is_masked,
      -jnp.log1p(-jnp.exp(here)) - jnp.exp(here),
      -jnp.expm1(here),
    )
    close(mine + weight * saved, official)
    assert is_masked.any() and not is_masked.all()
    assert (saved > 0).all() and (mine[~is_masked] == 0).all()
  g.assert_all_compared()


@pytree
class Sourced(RankOne):
  """Noise of any law `source` [K]: the official corrector takes one."""

  source: Array | None = None

  def _noise(self, states: Array, t: Time) -> Array:
    return self.source[states]


def test_euler_steps():
  """A head that is sure of the recorded draw of x_1: the step's law is then
  the solver's own, which jumps where u is small to a y drawn by the rates."""
  g = Case('euler')
  size, z, u = g.settings['V'], g['x_t'], g['u_jump']
  head = Posterior(log_one_hot(g['x1_draw'], size))
  cases = [m[1] for m in g.find('(.*)_x_next')]
  assert len(cases) >= 4
  kinds = set()
  for name in cases:
    found = re.fullmatch(r'n(\w+)_div(\w+)_t(\w+)_(\w+)', name)
    assert found
    n, v, now, then = map(number, found.groups())
    kinds.add(v > 0)
    process = Sourced(
      Power(n), jnp.zeros_like, size, None, source=g['source_p']
    )
    corrector = (lambda t, v=v: jnp.full_like(t, v)) if v else None
    step = flow(process, corrector, frozen=True)(head, z, 1 - then, 1 - now)
    law = np.exp(step.log_probs)
    stay = np.take_along_axis(law, z[..., None], axis=-1)[..., 0]
    jumps = u < 1 - stay
    away = np.where(np.arange(size) == z[..., None], 0.0, law)
    rates = away[jumps] / away[jumps].sum(-1, keepdims=True)
    rates *= -np.log(stay[jumps])[:, None] / (then - now)
    close(rates, g[f'{name}_jump_rates'])
    following = np.where(jumps, np.argmax(away, -1), z)
    equal(following, g[f'{name}_x_next'])
  assert kinds == {False, True}
  g.assert_all_compared()
