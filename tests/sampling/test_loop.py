"""The two loops, with steps that draw nothing."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.sampling.loop import sample, sample_until

KEY = jax.random.key(0)
GRID = jnp.array([1.0, 0.5, 0.25, 0.0])


class State(NamedTuple):
  x: jax.Array
  log_prob: jax.Array
  calls: jax.Array
  cache: jax.Array  # leads with layers, not with rows


def start(rows, layers):
  return State(
    jnp.arange(rows)[:, None],
    jnp.zeros((rows, 1)),
    jnp.zeros((), int),
    jnp.zeros((layers, rows, 5)),
  )


def count_down(key, carry, s, t):
  """x falls by one a step."""
  return State(
    carry.x - 1, carry.log_prob - 1.0, carry.calls + 1, carry.cache + 1
  )


def test_sample_walks_the_grid_with_a_key_for_each_step():
  def step(key, carry, s, t):
    return jnp.stack([s, t, jax.random.uniform(key)])

  last, trace = sample(KEY, step, jnp.zeros(3), GRID, lambda carry: carry)
  np.testing.assert_array_equal(trace[:, 1], GRID[:-1])
  np.testing.assert_array_equal(trace[:, 0], GRID[1:])
  keys = [jax.random.fold_in(KEY, i) for i in range(3)]
  np.testing.assert_array_equal(
    trace[:, 2], [jax.random.uniform(key) for key in keys]
  )
  np.testing.assert_array_equal(last, trace[-1])


def test_nothing_is_kept_unless_asked_for():
  assert sample(KEY, lambda k, c, s, t: c, jnp.zeros(2), GRID)[1] is None


@pytest.mark.parametrize('layers', [2, 3])
def test_rows_freeze_when_done(layers):
  """With as many layers as rows too: only x and log_prob are rows."""
  done = lambda carry: (carry.x <= 0).all(-1)
  carry, steps = jax.jit(
    lambda carry: sample_until(KEY, count_down, carry, jnp.ones(9), done)
  )(start(3, layers))
  np.testing.assert_array_equal(steps, [0, 1, 2])
  np.testing.assert_array_equal(carry.x[:, 0], 0)
  np.testing.assert_array_equal(carry.log_prob[:, 0], [0, -1, -2])
  assert carry.calls == 2 and (carry.cache == 2).all()


def test_the_grid_ends_what_is_never_done():
  never = lambda carry: jnp.zeros(3, bool)
  carry, steps = sample_until(KEY, count_down, start(3, 2), GRID, never)
  np.testing.assert_array_equal(steps, 3)
  assert carry.calls == 3
