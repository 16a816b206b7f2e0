"""What a bound network receives."""

import jax.numpy as jnp
import numpy as np

from textdiffusion.core.binding import anchored
from textdiffusion.core.types import Batch, Mixture, Model


def test_a_given_token_is_shown_once_where_tokens_are_mixed():
  ids = jnp.array([[3, 4, 5]])
  is_given = jnp.array([[True, False, True]])
  ones = jnp.ones_like(ids)
  batch = Batch(ids, ones, ones, ones[:, 0], ones[:, 0], is_given=is_given)
  captured = []
  model = Model(lambda x, t: captured.append(x))
  weights = jnp.array([0.2, 0.8])
  mixed = Mixture(
    jnp.broadcast_to(jnp.array([7, 8]), (1, 3, 2)),
    jnp.broadcast_to(weights, (1, 3, 2)),
  )
  anchored(model, batch).denoise(mixed, 0.5)
  (shown,) = captured
  # [B, L, 10]: the weight of each token in what the network is shown.
  total = np.zeros((1, 3, 10))
  for place in range(3):
    np.add.at(total[0, place], shown.ids[0, place], shown.weights[0, place])
  expected = np.zeros((1, 3, 10))
  expected[0, 0, 3] = expected[0, 2, 5] = 1
  expected[0, 1, [7, 8]] = weights
  np.testing.assert_allclose(total, expected, atol=1e-6)
