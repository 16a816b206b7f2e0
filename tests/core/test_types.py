"""Batches, as objectives take them."""

import jax.numpy as jnp
import pytest

from textdiffusion.core.types import Batch

IDS = jnp.ones((2, 3), jnp.int32)
ROWS = {
  'ids': IDS,
  'segments': IDS,
  'positions': IDS,
  'rows': IDS[:, 0],
  'is_given': IDS > 1,
  'weights': IDS / 2,
  'no_field': IDS,
}
U = jnp.full(2, 0.5)


def test_a_batch_takes_its_fields_only():
  batch = Batch.of(ROWS, U)
  assert batch.weights is ROWS['weights'] and batch.u is U
  assert batch.source is None and batch.step is None


@pytest.mark.parametrize(
  'name', ['segments', 'positions', 'is_given', 'weights']
)
def test_arrays_of_a_batch_have_the_shape_of_its_ids(name):
  rows = ROWS | {name: ROWS[name][:, :1]}
  with pytest.raises(AssertionError, match='shape'):
    Batch.of(rows, U)
