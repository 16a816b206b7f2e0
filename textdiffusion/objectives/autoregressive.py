"""The exact likelihood, left to right."""

from typing import Any, Literal

import jax.numpy as jnp

from textdiffusion.core.binding import each_token
from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import Array, Batch, Causal, Key, Model


@pytree
class Autoregressive:
  """-log p(x_i | x_0 ... x_{i-1}); `bos_id` stands before a first token."""

  bos_id: int = static()
  estimand: Literal['nelbo', 'surrogate'] = static(default='nelbo')

  def __call__(
    self, model: Model, key: Key, batch: Batch
  ) -> tuple[Array, dict[str, Array]]:
    """-> [B, L] nats; exact, so `key` is not used."""
    previous = jnp.roll(batch.ids, 1, axis=-1)
    shifted = jnp.where(batch.positions == 0, self.bos_id, previous)
    nats = each_token(model, _nll, shifted, 0.0, batch.ids)
    return nats, {'nll': nats}


def _nll(head: Any, ids: Array) -> Array:
  if not isinstance(head, Causal):
    raise TypeError(
      f'autoregression takes a Causal head, not {type(head).__name__}'
    )
  return -Categorical(head.logits).log_prob(ids)
