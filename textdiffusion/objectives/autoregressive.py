"""The exact likelihood, left to right."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import Array, Batch, Causal, Key
from textdiffusion.model import token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models


@dataclasses.dataclass(frozen=True)
class Autoregressive:
  """-log p(x_i | x_0 ... x_{i-1}); `bos_id` stands before a first token."""

  bos_id: int
  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the exact nats, which depend on no key."""
    previous = jnp.roll(batch.ids, 1, axis=-1)
    shifted = jnp.where(batch.positions == 0, self.bos_id, previous)
    nats = token_losses(models.student, _nll, shifted, 0.0, batch.ids)
    return Loss(nats, {'nll': nats})


def _nll(head: Any, ids: Array) -> Array:
  if not isinstance(head, Causal):
    raise TypeError(
      f'autoregression takes a Causal head, not {type(head).__name__}'
    )
  return -Categorical(head.logits).log_prob(ids)
