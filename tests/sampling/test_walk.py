"""The log-probabilities that a chain keeps."""

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.distributions import Categorical
from textdiffusion.sampling.steps.ancestral import Chain, walk


def test_a_token_keeps_the_log_probability_of_its_last_draw():
  """New where a step changes the token, the old one where it does not."""
  steps, rows, length, states = 6, 16, 5, 4
  logits = jax.random.normal(jax.random.key(1), (steps + 1, length, states))
  # The law of a step depends on its time t = i / steps, and not on its input.
  at = lambda t: logits[jnp.round(t * steps).astype(int)]
  law = lambda head, x, s, t: Categorical(
    jnp.broadcast_to(head, (rows, length, states))
  )
  step = jax.jit(walk(law, lambda x, t: at(t)))
  x = jnp.zeros((rows, length), jnp.int32)
  carry = Chain(x, jnp.full(x.shape, -9.0), jnp.zeros((), jnp.int32))
  changed = []
  for i in reversed(range(1, steps + 1)):
    key, t = jax.random.key(i), jnp.asarray(i / steps)
    after = step(key, carry, t - 1 / steps, t)
    drawn = Categorical(jnp.broadcast_to(at(t), (rows, length, states)))
    is_new = np.asarray(after.x != carry.x)
    want = np.where(is_new, drawn.log_prob(after.x), carry.log_prob)
    np.testing.assert_allclose(after.log_prob, want, rtol=1e-6)
    changed.append(is_new.mean())
    carry = after
  assert min(changed) > 0.2 and max(changed) < 0.95
  assert carry.calls == steps
