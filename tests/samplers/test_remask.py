"""Remasking and Psi steps: identities of one step, token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import Case, close, number
from tests.oracle import PROCESSES, Law
from tests.samplers.models import HeadModel, canvas_of, run
from textdiffusion.core.types import Cavity
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers import Chain, Remask
from textdiffusion.samplers.psi import kappa_of, psi
from textdiffusion.samplers.remask import (
  amount,
  by_confidence,
  most,
  remasking,
)
from textdiffusion.schedules.noise import Cosine, Geometric, Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)
TIMES = [(0.0, 0.4), (0.3, 0.7), (0.3, 0.3), (0.9, 1.0), (0.0, 1.0)]
MASKED = absorbing(4, 1, Cosine())


def kernel(process, transition, x, s, t):
  """[K, K] from each z to each y, of the head that is certain of x."""
  z = jnp.arange(process.num_states)
  head = process.clean(jnp.full(z.shape, x))
  return np.exp(transition(head, z, s, t).log_probs)


def keeps_the_marginals(process, transition, s, t):
  """sum_z q_t(z | x) step(y | z, x) = q_s(y | x), for every x."""
  for x in range(process.num_states):
    if x == process.mask_id:
      continue
    ids = jnp.asarray([x])
    before = np.exp(process.marginal(ids, t).log_probs[0])
    after = np.exp(process.marginal(ids, s).log_probs[0])
    step = kernel(process, transition, x, s, t)
    reached = before > 0
    close(before[reached] @ step[reached], after, atol=1e-12)


@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
@pytest.mark.parametrize('s, t', TIMES)
def test_remasking_keeps_the_marginals(share, s, t):
  """Of every admissible sigma, the largest too (theorem 3.1)."""
  transition = remasking(MASKED, lambda s, t: share * most(MASKED, s, t))
  keeps_the_marginals(MASKED, transition, s, t)


@pytest.mark.parametrize('name', PROCESSES)
@pytest.mark.parametrize('kept', [0.0, 0.4, 1.0])
def test_psi_keeps_the_marginals(name, kept):
  process = PROCESSES[name](3)
  transition = psi(process, lambda s, t: jnp.asarray([kept]))
  for s, t in TIMES:
    keeps_the_marginals(process, transition, s, t)


def test_more_than_admissible_does_not():
  """The largest sigma is the largest: beyond it something is negative."""
  s, t = 0.3, 0.5
  beyond = lambda s, t: 1.2 * most(MASKED, s, t)
  with pytest.raises(AssertionError):
    keeps_the_marginals(MASKED, remasking(MASKED, beyond), s, t)


@pytest.mark.parametrize('kind', ['cap', 'rescale', 'constant'])
@pytest.mark.parametrize('s, t', TIMES)
def test_remasking_is_psi(kind, s, t):
  """sigma = (1 - kappa) (1 - alpha_s), wherever such a kappa exists."""
  noise = jnp.exp(MASKED.schedule(s).log_1m_alpha[0])
  plain = amount(MASKED, Remask(kind=kind, eta=0.3))
  sigma = lambda s, t: jnp.minimum(plain(s, t), noise)
  head = Cavity(jax.random.normal(KEY, (4, 4)))
  z = jnp.arange(4)
  one = remasking(MASKED, sigma)(head, z, s, t).log_probs
  two = psi(MASKED, kappa_of(MASKED, sigma))(head, z, s, t).log_probs
  # Visible tokens do not exist at t = 1; masks do not at t = 0.
  there = MASKED.is_mask(z) | (t < 1)
  close(np.exp(one)[there], np.exp(two)[there], atol=1e-12)


@pytest.mark.parametrize('s, t', TIMES)
def test_nothing_put_back_is_the_bridge(s, t):
  head = Cavity(jax.random.normal(KEY, (4, 4)))
  z = jnp.arange(4)
  there = MASKED.is_mask(z) | (t < 1)
  bridge = np.exp(MASKED.bridge(head, z, s, t).log_probs)[there]
  for config in (Remask(eta=0.0), Remask(eta=0.5, switch=t - 1e-3)):
    sigma = amount(MASKED, config)
    for transition in (
      remasking(MASKED, sigma),
      psi(MASKED, kappa_of(MASKED, sigma)),
    ):
      close(np.exp(transition(head, z, s, t).log_probs)[there], bridge)


def test_given_tokens_stay():
  """t_i = 0 in a row at t = 0.8, under any kind."""
  z, is_given = jnp.asarray([0, 3, 1]), jnp.asarray([True, False, False])
  head = Cavity(jax.random.normal(KEY, (3, 4)))
  s, t = jnp.where(is_given, 0.0, 0.5), jnp.where(is_given, 0.0, 0.8)
  for kind in ('cap', 'rescale', 'loop', 'constant', 'forward_backward', 'dfm'):
    eta = {} if kind == 'forward_backward' else {'eta': 1.0}
    sigma = amount(MASKED, Remask(kind=kind, **eta))
    for transition in (
      remasking(MASKED, sigma),
      psi(MASKED, kappa_of(MASKED, sigma)),
    ):
      probs = np.exp(transition(head, z, s, t).log_probs)
      close(probs.sum(-1), 1.0)
      close(probs[0], [1, 0, 0, 0])


def test_confidence_shares_sigma_out():
  """Among drawn tokens; masks and given ones have no part."""
  x = jnp.asarray([[0, 1, 2, 3], [1, 1, 1, 1]])
  log_prob = jnp.log(jnp.asarray([[0.9, 1.0, 0.2, 1.0], [1.0] * 4]))
  chain = Chain(x, log_prob, jnp.zeros((), int))
  t = jnp.asarray([[0.5, 0.5, 0.5, 0.0], [0.5] * 4])
  share = by_confidence(MASKED, lambda s, t: jnp.ones(1), chain)(t, t)[..., 0]
  first, second = np.exp([-0.9, -0.2]) / np.exp([-0.9, -0.2]).sum()
  close(share[0], [first, 0, second, 0])
  close(share[1], 0.0)


def test_float32_is_precise_at_small_steps():
  """The chance of a reveal in 1 / 4096 of the time, to 1e-3 of it."""
  transition = remasking(MASKED, amount(MASKED, Remask(eta=0.0)))
  z, s, t = jnp.asarray([1]), 0.7 - 2**-12, 0.7
  exact = transition(Cavity(jnp.zeros((1, 4))), z, s, t).log_probs
  with jax.enable_x64(False):
    z = jnp.asarray([1], 'int32')
    single = transition(Cavity(jnp.zeros((1, 4), 'float32')), z, s, t).log_probs
    assert single.dtype == 'float32'
  close(np.exp(single), np.exp(exact), rtol=1e-3)


def test_kappas_of_duo():
  """Duo's Psi-samplers. Their `max-rescale` takes eta times min(eta, most), a
  square of eta; here it is eta times most."""
  g = Case('duo', 'uniform_sampler')
  process = uniform(g.settings['V'], Linear(1e-3))
  kinds = {'max_capped': 'cap', 'constant_remdm': 'cap', 'constant': 'constant'}
  for profile in ('lin', 'lcl'):
    times = g[f'psi_timesteps_{profile}']
    s, t = times[1:], times[:-1]
    for name, kind in kinds.items():
      for match in g.find(f'kappas_{profile}_{name}_(0.*)'):
        array, size = match[0], number(match[1])
        size = 1 - size if kind == 'constant' else size
        kappa = kappa_of(process, amount(process, Remask(kind=kind, eta=size)))
        # Float32 times of 1e-5 and 1 - alpha there.
        close(kappa(s, t)[:, 0], g[array][:-1], rtol=1e-4, atol=1e-5)
    (array,) = [k for k in g if k.startswith(f'kappas_{profile}_max_rescale')]
    eta = number(array.rsplit('_', 1)[1])
    capped = amount(process, Remask(kind='cap', eta=eta))
    squared = lambda s, t: eta * capped(s, t)
    close(
      kappa_of(process, squared)(s, t)[:, 0],
      g[array][:-1],
      rtol=1e-4,
      atol=1e-5,
    )
  t = jnp.asarray(g['t'])
  head, z, s = Cavity(g['logits']), g['xt'], t - g['dt']
  for name, kept in (('0p0', 0.0), ('0p35', 0.35), ('1p0', 1.0)):
    dist = psi(process, lambda s, t, kept=kept: jnp.asarray([kept]))
    mine = np.exp(dist(head, z, s, t).log_probs)
    close(mine, g[f'psi_kappa{name}_log_linear'])


def test_the_law_of_one_token_is_kept_at_any_step_count():
  """With the exact denoiser and one token no draw is independent of another:
  after each of 3 steps the state follows q_s, whatever is put back."""
  law = Law(MASKED, 1)
  sigma = amount(MASKED, Remask(kind='rescale', eta=1.0))
  states = jnp.arange(4)[:, None]
  log_p = jnp.full(4, -jnp.inf).at[law.ids[:, 0]].set(law.log_p)
  at = lambda t: np.exp(MASKED.marginal(log_p[None], t).log_probs[0])
  for transition in (
    remasking(MASKED, sigma),
    psi(MASKED, lambda s, t: jnp.zeros(1)),
  ):
    for s, t in ((0.8, 1.0), (0.5, 0.8), (0.0, 0.5)):
      before = at(t)
      step = np.stack(
        [
          np.exp(transition(law.cavity(z, t), z, s, t).log_probs[0])
          for z in states
        ]
      )
      reached = before > 0
      close(before[reached] @ step[reached], at(s), atol=1e-12)


def test_psi_keeps_given_tokens_where_a_schedule_has_noise_at_time_0():
  process = absorbing(4, 1, Geometric(0.1, 5.0))
  half = lambda s, t: jnp.full((3, 1), 0.5)
  x, time = jnp.array([0, 2, 3]), jnp.zeros(3)
  head = Cavity(jax.random.normal(KEY, (3, 4)))
  probs = np.exp(psi(process, half)(head, x, time, time).log_probs)
  close(probs, np.eye(4)[x], atol=1e-12)


def test_the_log_probability_is_that_of_the_network():
  """Of the token that stands, not that of being revealed; 0 at masks."""
  process = absorbing(4, 1, Linear())
  logits = jnp.log(jnp.asarray([0.7, 0.0, 0.2, 0.1]))
  head = lambda x, t: Cavity(jnp.broadcast_to(logits, (*x.shape, 4)))
  sampler = Remask(8, 'uniform', eta=0.3)
  canvas = canvas_of(4, None, None)
  samples = run(HeadModel(process, head), canvas, sampler, trace=True)
  ids, log_prob = samples.trace.ids, samples.trace.log_prob
  want = np.where(ids == 1, 0.0, np.asarray(logits)[ids])
  np.testing.assert_allclose(log_prob, want, rtol=1e-6)
  # Something was put back: a token became a mask.
  assert ((ids[1:] == 1) & (ids[:-1] != 1)).any()
