"""The exact negative log-likelihood of an autoregressive model."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import Array, Batch, Causal, Head, Key
from textdiffusion.model import token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models


@dataclasses.dataclass(frozen=True)
class Autoregressive:
  """-log p(x_i | x_0 ... x_{i-1}) in nats.

  Attributes:
    bos_id: token that the network takes before the first token of a text.
    estimand: whether the mean of the loss bounds -log p(x0).
  """

  bos_id: int
  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the loss; its only term is nll, and `key` is not used."""
    previous = jnp.roll(batch.ids, 1, axis=-1)
    shifted = jnp.where(batch.positions == 0, self.bos_id, previous)
    nats = token_losses(models.student, _nll, shifted, 0.0, batch.ids)
    return Loss(nats, {'nll': nats})


def _nll(head: Head, ids: Int[Array, '... L']) -> Float[Array, '... L']:
  """Returns [L] nats of the ids under a `Causal` head."""
  if not isinstance(head, Causal):
    raise TypeError(
      f'autoregression takes a Causal head, not {type(head).__name__}'
    )
  return -Categorical(head.logits).log_prob(ids)
