"""Reverse rates and the steps by them, one step at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden.case import close
from tests.oracle import PROCESSES
from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import Cavity
from textdiffusion.processes.bridge import to_log_score, to_posterior
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers.rates import euler, log_rates, tau_leaping
from textdiffusion.schedules.noise import Cosine, Linear

pytestmark = pytest.mark.usefixtures('x64', 'quick_compile')
KEY = jax.random.key(0)


def heads(process, z, t):
  cavity = Cavity(jax.random.normal(KEY, (len(z), process.num_states)))
  return (
    cavity,
    to_posterior(process, cavity, z, t),
    to_log_score(process, cavity, z, t),
  )


@pytest.mark.parametrize('name', PROCESSES)
def test_rates_are_the_bridge_of_a_short_step(name):
  """Of any head; the bridge over h = 1e-6, which is h rate + O(h^2)."""
  process, t, h = PROCESSES[name](3), 0.6, 1e-6
  z = jnp.arange(process.num_states)
  even = process.marginal(jnp.zeros((1, len(z))), t).logits[0]
  z = z[even > -jnp.inf]  # what can be at t
  for head in heads(process, z, t):
    rates = np.exp(log_rates(process, head, z, t))
    bridge = np.exp(process.bridge(head, z, t - h, t).log_probs) / h
    moves = ~one_hot(z, process.num_states)
    close(np.where(moves, bridge, 0.0), rates, rtol=1e-4, atol=1e-4)
    assert (rates[np.asarray(~moves)] == 0).all()


def test_rates_at_the_noise_end():
  """At t = 1 the hazard is infinite, the ratio 0: -alpha' xhat is left."""
  process = absorbing(4, 3, Cosine())
  z = jnp.full(1, 3)
  head = Cavity(jax.random.normal(KEY, (1, 4)))
  rates = np.exp(log_rates(process, head, z, 1.0))
  xhat = np.exp(process.clean_log_probs(head.logits))
  # One rounding before 1, where alpha is that rounding: 1e-8 in float64.
  close(rates, process.schedule(1.0).rate[None] * xhat, rtol=1e-7)


def test_probabilities_of_a_step():
  """euler: h rate; tau leaping: 1 - exp(-h total), in proportion."""
  process, s, t = uniform(3, Linear()), 0.45, 0.6
  z = jnp.arange(3)
  head = heads(process, z, t)[0]
  rates = np.exp(log_rates(process, head, z, t)) * (t - s)
  total = rates.sum(-1, keepdims=True)
  assert (total < 1).all()
  eye = np.eye(3)
  first_order = np.exp(euler(process)(head, z, s, t).log_probs)
  close(first_order, rates + eye * (1 - total), rtol=1e-9)
  jump = -np.expm1(-total)
  leap = np.exp(tau_leaping(process)(head, z, s, t).log_probs)
  close(leap, rates / total * jump + eye * (1 - jump), rtol=1e-9)
  # A step too long for first order always jumps.
  cut = np.exp(euler(process)(head, z, 0.1, 0.99).log_probs)
  close(cut[eye == 1], 0.0)
  close(cut.sum(-1), 1.0)


@pytest.mark.parametrize('step', [euler, tau_leaping])
@pytest.mark.parametrize('name', PROCESSES)
def test_ends_and_given_tokens(step, name):
  """s = 0 is the bridge, t = 1 is finite, t_i = 0 stays."""
  process = PROCESSES[name](3)
  z = jnp.asarray(
    [s for s in range(process.num_states) if s != process.mask_id]
  )
  head = Cavity(jax.random.normal(KEY, (3, process.num_states)))
  transition = step(process)
  last = transition(head, z, 0.0, 0.3).log_probs
  close(np.exp(last), np.exp(process.bridge(head, z, 0.0, 0.3).log_probs))
  is_given = jnp.arange(3) == 1
  mixed = transition(
    head, z, jnp.where(is_given, 0.0, 0.3), jnp.where(is_given, 0.0, 0.5)
  ).log_probs
  assert (mixed[1].argmax(), np.exp(mixed[1].max())) == (z[1], 1)
  plain = transition(head, z, 0.3, 0.5).log_probs
  np.testing.assert_array_equal(mixed[0], plain[0])
  start = process.prior().logits.argmax()
  first = transition(head, jnp.full(3, start), 0.9, 1.0).log_probs
  assert not jnp.isnan(first).any()
