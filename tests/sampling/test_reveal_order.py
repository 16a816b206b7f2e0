"""The order and the times in which tokens of an absorbing process come."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2, kstest

from textdiffusion.core.types import (
  Cavity,
)
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.sampling.functions import Functions
from textdiffusion.sampling.generate import diffusion_sampler, generate
from textdiffusion.sampling.plan import Canvas
from textdiffusion.sampling.settings import Order, SampleConfig
from textdiffusion.schedules.noise import Cosine

pytestmark = pytest.mark.usefixtures('quick_compile')
KEY = jax.random.key(0)
ROWS, MASK = 6000, 2
PROCESS = absorbing(3, MASK, Cosine())
MODEL = Functions(lambda x, t: Cavity(jnp.zeros((*x.shape, 3))))


def frames(sampler, is_given, **settings):
  """[T + 1, ROWS, L] states of chains."""
  given = jnp.tile(jnp.asarray(is_given), (ROWS, 1))
  canvas = Canvas(jnp.zeros(given.shape, int), given)
  config = SampleConfig(sampler=sampler, **settings)
  draw = lambda key: generate(
    diffusion_sampler(PROCESS), MODEL, key, canvas, config, trace=True
  )
  return np.asarray(jax.jit(draw)(KEY).trace.ids)


@pytest.mark.parametrize(
  'sampler, settings',
  [('first_hitting', {}), ('ordered', {'order': Order('random')})],
)
def test_every_order_is_as_likely(sampler, settings):
  """Of three places, a fourth is given: chi-square over the 6 orders, false
  alarm 1e-5."""
  is_given = np.array([False, True, False, False])
  masked = frames(sampler, is_given, **settings) == MASK
  np.testing.assert_array_equal(masked[:4, 0].sum(-1), [3, 2, 1, 0])
  left = masked.sum(0)[:, ~is_given]  # [ROWS, 3] states in which it is masked
  orders = [tuple(order) for order in np.argsort(left, axis=-1)]
  want = ROWS / 6
  value = sum(
    (orders.count(order) - want) ** 2 / want
    for order in itertools.permutations(range(3))
  )
  assert value < chi2.ppf(1 - 1e-5, 5), value


def test_the_law_of_the_times_of_first_hitting():
  """Noise at an event is the largest of n uniforms: its n-th power is uniform
  (Kolmogorov-Smirnov, false alarm 1e-5 each), and the powers are independent
  (correlation, 5 standard errors)."""
  spied = []

  def denoise(x, t):
    jax.debug.callback(lambda t: spied.append(np.asarray(t)), t, ordered=True)
    return MODEL.denoise(x, t)

  canvas = Canvas(jnp.zeros((ROWS, 3), int), jnp.zeros((ROWS, 3), bool))
  config = SampleConfig(sampler='first_hitting')
  draw = lambda key: generate(
    diffusion_sampler(PROCESS), Functions(denoise), key, canvas, config
  )
  jax.jit(draw)(KEY)
  jax.effects_barrier()
  level = lambda t: jnp.exp(PROCESS.schedule(jnp.asarray(t)).log_1m_alpha)
  noise = [np.asarray(level(t[:, :1]))[:, 0, 0] for t in spied]
  before, powers = np.ones(ROWS), []
  for left, now in zip((3, 2, 1), noise, strict=True):
    powers.append((now / before) ** left)
    assert kstest(powers[-1], 'uniform').pvalue > 1e-5
    before = now
  correlation = np.corrcoef(powers)[np.triu_indices(3, 1)]
  assert np.abs(correlation).max() < 5 / ROWS**0.5


def test_ancestral_steps_reveal_each_place_alike():
  """Which of two masks comes first is even in steps that reveal one: 5 standard
  errors, false alarm 6e-7."""
  masked = frames('ancestral', [False, False], steps=16) == MASK
  left = masked.sum(0)
  apart = left[left[:, 0] != left[:, 1]]
  assert len(apart) > 0.8 * ROWS
  first = (apart[:, 0] < apart[:, 1]).mean()
  assert abs(first - 0.5) < 5 * 0.5 / len(apart) ** 0.5
