"""Temperature, top-k, top-p."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.oracle import PROCESSES, Law
from textdiffusion.core.types import Posterior, UserError
from textdiffusion.processes.bridge import to_posterior
from textdiffusion.samplers import Filter
from textdiffusion.samplers.filters import filtered, filtered_posterior

LOGITS = jnp.log(jnp.array([0.4, 0.1, 0.3, 0.2]))


def probs(*args):
  return np.asarray(jax.nn.softmax(filtered(LOGITS, *args)))


def test_temperature():
  p = np.array([0.4, 0.1, 0.3, 0.2]) ** 2
  np.testing.assert_allclose(probs(0.5, 0, 1.0), p / p.sum(), rtol=1e-6)
  np.testing.assert_array_equal(probs(0.0, 0, 1.0), [1, 0, 0, 0])


@pytest.mark.parametrize('temperature', [2e-38, 1e-40, 1e-300])
def test_a_temperature_near_zero_is_the_argmax(temperature):
  """A quotient that overflows would give NaN, and the first token."""
  logits = jnp.array([-5.0, 2.0, 9.0, 8.9, -jnp.inf])
  dist = jax.nn.softmax(
    jax.jit(lambda x: filtered(x, temperature, 0, 1.0))(logits)
  )
  np.testing.assert_array_equal(dist, [0, 0, 1, 0, 0])


def test_top_k():
  np.testing.assert_allclose(probs(1.0, 2, 1.0), [4 / 7, 0, 3 / 7, 0], 1e-6)
  np.testing.assert_allclose(probs(1.0, 9, 1.0), [0.4, 0.1, 0.3, 0.2], 1e-6)


@pytest.mark.parametrize(
  'top_p, kept', [(0.3, 1), (0.41, 2), (0.69, 2), (0.71, 3), (0.95, 4)]
)
def test_top_p_keeps_the_token_that_crosses_it(top_p, kept):
  assert (probs(1.0, 0, top_p) > 0).sum() == kept


@pytest.mark.parametrize('name', PROCESSES)
@pytest.mark.usefixtures('x64')
def test_filters_reshape_the_posterior_of_any_process(name):
  """Not the cavity: on uniform noise that would be another distribution."""
  process = PROCESSES[name](3)
  law = Law(process, 2)
  z = jnp.asarray(law.tokens[:2])[None]
  if process.is_absorbing:
    z = jnp.full((1, 2), process.mask_id)
  head = law.denoise(z, 0.6)
  cut = filtered_posterior(process, head, z, 0.6, Filter(0.5, 2))
  assert isinstance(cut, Posterior)
  posterior = to_posterior(process, head, z, 0.6)
  p = np.exp(process.clean_log_probs(posterior.logits)) ** 2
  p = np.where(p >= np.sort(p)[..., -2:-1], p, 0)
  p /= p.sum(-1, keepdims=True)
  np.testing.assert_allclose(jax.nn.softmax(cut.logits), p, atol=1e-12)


def test_a_visible_token_outlasts_a_posterior_that_prefers_another():
  """The prediction at a visible token must not count, whatever the filter."""
  process = PROCESSES['absorbing'](3)
  head = Posterior(jnp.tile(jnp.array([9.0, 0, 1, 9]), (1, 2, 1)))
  z = jnp.array([[1, process.mask_id]])
  for settings in ((1.0, 1, 1.0), (1.0, 0, 0.5), (0.0, 0, 1.0)):
    step = Filter(*settings).apply(process, process.bridge)
    best = jnp.argmax(step(head, z, 0.0, 0.6).logits, -1)
    np.testing.assert_array_equal(best, [[1, 0]])


def test_a_filter_that_filters_nothing_changes_nothing():
  process = PROCESSES['absorbing'](3)
  assert Filter().apply(process, process.bridge) == process.bridge
  assert Filter()(LOGITS) is LOGITS


@pytest.mark.parametrize(
  'name, value, rule',
  [
    ('top_p', 0.0, r'in \(0, 1\]'),
    ('temperature', -1.0, 'in .0, 1e30'),
    ('temperature', float('nan'), 'in .0, 1e30'),
    ('top_k', -1, 'at least 0'),
  ],
)
def test_a_bad_value_is_named(name, value, rule):
  with pytest.raises(UserError, match=rf'Filter\({name}={value}\): .*{rule}'):
    Filter(**{name: value})
