"""Every process by every transition, against the exact law of its chain.

With the denoiser that knows the law, a chain of T steps must come to the law as
1/T, free and infilling. No draws: laws of chains are computed. A row of TABLE
is a process, a transition and a head; to try a new one, add a row.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import PROCESSES, Law, distance, law_of_chain
from textdiffusion.core.types import Cavity, Posterior
from textdiffusion.processes.bridge import to_log_score
from textdiffusion.processes.rank_one import uniform
from textdiffusion.samplers import Remask
from textdiffusion.samplers.flow import flow
from textdiffusion.samplers.psi import kappa_of, psi
from textdiffusion.samplers.rates import euler, tau_leaping
from textdiffusion.samplers.remask import amount, remasking
from textdiffusion.samplers.score import tweedie
from textdiffusion.schedules import grids
from textdiffusion.schedules.noise import Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
LENGTH, TOKENS, STEPS = 2, 3, (8, 32, 128)


@dataclasses.dataclass(frozen=True)
class Row:
  """One combination.

  transition: (process, T) -> Transition. head: (law, z, t) -> the exact head.
  grid: T -> times; suitable where every step makes as much noise.
  limit: of the total variation at T = 128. fall: the least factor by which it
    falls whenever T grows fourfold; 1/T gives 4.
  exact: whether a single free token follows its law to rounding at any T.
  """

  process: Any
  transition: Callable[[Any, Any], Any] = lambda process, steps: process.bridge
  head: Callable[[Law, Any, Any], Any] = lambda law, z, t: law.cavity(z, t)
  grid: Callable[[int], Any] = grids.uniform
  limit: float = 0.01
  fall: float = 3.5
  exact: bool = True


def both_ends(steps):
  """Fine where the hazards of GIDD's noise are infinite, at 0 and at 1."""
  u = grids.uniform(steps)
  return u**2 * (3 - 2 * u)


def posterior(law, z, t):
  return law.posterior(z, t)


def log_score(law, z, t):
  return to_log_score(law.process, law.cavity(z, t), z, t)


def of(kind):
  """sigma of an `amount` that puts back no more in all when T grows.

  That of correctors is a multiple of the step as it is; of the others eta must
  be about 1 / T.
  """

  def sigma(process, steps):
    eta = {} if kind == 'forward_backward' else {'eta': 1.0}
    whole = amount(process, Remask(kind=kind, **eta))
    if kind in ('forward_backward', 'dfm'):
      return whole
    if kind == 'cap':
      return lambda s, t: jnp.minimum(2 / steps, whole(s, t))
    return lambda s, t: 2 / steps * whole(s, t)

  return sigma


def remask_by(sigma):
  return lambda process, steps: remasking(process, sigma(process, steps))


def psi_by(sigma):
  return lambda process, steps: psi(
    process, kappa_of(process, sigma(process, steps))
  )


def row(name, *args, **settings):
  if name == 'hybrid':
    settings = {'grid': both_ends, 'limit': 0.02, **settings}
  return Row(PROCESSES[name](TOKENS), *args, **settings)


def by(step):
  return lambda process, steps: step(process)


TABLE = {
  **{f'bridge {name}': row(name) for name in PROCESSES},
  'bridge posterior uniform': row('uniform', head=posterior),
  'bridge posterior hybrid': row('hybrid', head=posterior),
  # With ratios for a head the bridge is SEDD's Tweedie step.
  # Ratios are undefined at alpha = 0, so some signal is left at t = 1.
  'bridge score uniform': Row(uniform(TOKENS, Linear(1e-6)), head=log_score),
}
# The rates of GIDD's noise are infinite at 0 and 1, as 1 / sqrt(t): to hold
# them over the first step costs sqrt(h), a factor of 2.
TABLE |= {
  f'{step.__name__} {name}': row(
    name,
    by(step),
    exact=name == 'absorbing',
    fall=2.0 if name == 'hybrid' else 3.5,
  )
  for step in (euler, tau_leaping)
  for name in ('absorbing', 'uniform', 'hybrid')
}
TABLE |= {
  f'remask {kind}': row('absorbing-cosine', remask_by(of(kind)))
  for kind in ('cap', 'rescale', 'constant', 'forward_backward', 'dfm')
}
TABLE |= {
  'flow absorbing': row('absorbing', by(flow)),
  'flow uniform': row('uniform', by(flow), exact=False),
  'tweedie uniform': Row(
    uniform(TOKENS, Linear(1e-6)), by(tweedie), head=log_score
  ),
}
# With sigma = eta everywhere kappa is 0 in the last steps, which then draw all
# that is noise at once: what is left there falls a little slower.
TABLE |= {
  f'psi cap {name}': row(name, psi_by(of('cap')), fall=2.5)
  for name in ('absorbing', 'uniform', 'hybrid')
}
TABLE['psi constant uniform'] = row('uniform', psi_by(of('constant')))

# Heads under another's name: no number of steps brings these to the law.
WRONG = {
  name: row(process, transition, head=head, grid=both_ends)
  for process in ('uniform', 'hybrid')
  for name, transition, head in (
    (
      f'{process}: a posterior as a cavity',
      by(lambda process: process.bridge),
      lambda law, z, t: Cavity(law.posterior(z, t).logits),
    ),
    (
      f'{process}: a cavity as a posterior',
      psi_by(of('constant')),
      lambda law, z, t: Posterior(law.cavity(z, t).logits),
    ),
    (
      f'{process}: a posterior as a cavity, by rates',
      by(euler),
      lambda law, z, t: Cavity(law.posterior(z, t).logits),
    ),
  )
}


def distances(row):
  """{T: [free and infilling, 2 laws]} total variations."""
  law = Law(row.process, LENGTH)
  most = max(STEPS)
  # Shorter grids are filled up with steps from 0 to 0, which change nothing.
  times = [jnp.pad(row.grid(steps), (0, most - steps)) for steps in STEPS]
  given = jnp.array([[-1, -1], [int(law.tokens[1]), -1]])

  def at(seed, given, grid, steps):
    known = law.with_seed(seed)
    chain = law_of_chain(
      row.process,
      lambda z, t: row.head(known, z, t),
      LENGTH,
      grid,
      row.transition(row.process, steps),
      given,
    )
    return distance(known, chain, given)

  for axes in (
    (None, None, 0, 0),
    (None, 0, None, None),
    (0, None, None, None),
  ):
    at = jax.vmap(at, axes)
  found = jax.jit(at)(
    jnp.arange(2), given, jnp.stack(times), jnp.asarray(STEPS, float)
  )
  # [law, given, T] -> {T: [given, law]}
  return dict(zip(STEPS, np.asarray(found).T, strict=True))


@pytest.mark.parametrize('name', TABLE)
def test_the_chain_comes_to_the_law(name):
  row = TABLE[name]
  found = distances(row)
  few, some, many = (found[steps] for steps in STEPS)  # [given, law]
  assert many.max() < row.limit, many
  assert (few[0] / some[0] > row.fall).all(), few / some
  assert (some[0] / many[0] > row.fall).all(), some / many
  if row.exact:
    # Of one free token nothing is drawn independently: rounding is left, of
    # probabilities and of 128 products of them.
    assert few[1].max() < 1e-9 and many[1].max() < 1e-9, found


@pytest.mark.parametrize('name', WRONG)
def test_a_mislabelled_head_never_comes_to_the_law(name):
  found = distances(WRONG[name])
  assert found[128][0].min() > 0.1, found
