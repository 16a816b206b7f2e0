"""Streams, row keys and strata depend on names and rows, on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.core.keys import row_keys, strata, stream

KEY = jax.random.key(0)


def test_streams_differ_by_name_and_are_the_same_in_every_process():
  draws = [jax.random.bits(stream(KEY, name)) for name in 'abc']
  assert len({int(x) for x in draws}) == 3
  folded = jax.random.fold_in(KEY, 0xE8B7BE43)  # crc32 of 'a'
  assert (
    jax.random.key_data(stream(KEY, 'a')) == jax.random.key_data(folded)
  ).all()


def test_the_key_of_a_row_does_not_depend_on_the_others():
  every = jax.random.key_data(row_keys(KEY, jnp.arange(8)))
  some = jax.random.key_data(row_keys(KEY, jnp.array([6, 1])))
  np.testing.assert_array_equal(some, every[jnp.array([6, 1])])
  assert len({tuple(key) for key in every.tolist()}) == 8


@pytest.mark.parametrize('num_rows', [1, 7, 512])
def test_one_number_in_each_stratum(num_rows):
  rows = jnp.arange(num_rows)
  u = strata(KEY, rows, num_rows)
  np.testing.assert_array_equal(np.floor(u * num_rows), rows)
  assert (u > 0).all()
  part = strata(KEY, rows[1::2], num_rows)
  np.testing.assert_array_equal(part, u[1::2])


def test_a_jitter_that_is_shared_leaves_equal_distances():
  """The numbers u0 + i / n mod 1 of one u0, in order of their strata."""
  rows = jnp.arange(7)
  u = strata(KEY, rows, 7, is_shared=True)
  np.testing.assert_array_equal(np.floor(u * 7), rows)
  np.testing.assert_allclose(jnp.diff(u), 1 / 7, rtol=1e-5)
  np.testing.assert_array_equal(strata(KEY, rows[1::2], 7, True), u[1::2])
  others = [strata(jax.random.key(i), rows, 7, True)[0] for i in range(4)]
  assert len({float(x) for x in others}) == 4
