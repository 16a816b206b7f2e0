"""The any-order bound: a fixed number of masks per row, drawn at random.

Averaged over all orders in which tokens may be revealed, the bound of an
absorbing process is the bound of autoregression in a random order (ARDM,
Hoogeboom et al. 2022; RADD's k-DCE, Ou et al. 2024).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Int, Num

from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import Array, Batch, Key
from textdiffusion.model import token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.objectives.nelbo import masked_bound
from textdiffusion.schedules.times import discrete


def mask_exactly(
  key: Key, x0: Int[Array, ' L'], count: Num[Array, '...'], mask_id: int
) -> Int[Array, ' L']:
  """Masks a fixed number of tokens; every set of positions is equally likely.

  Args:
    key: random key.
    x0: [L] clean tokens.
    count: number of masks, [] or [1].
    mask_id: id of the mask.

  Returns:
    [L] tokens.
  """
  rank = jax.random.permutation(key, x0.shape[-1])
  return jnp.where(rank < count, mask_id, x0)


@dataclasses.dataclass(frozen=True)
class AnyOrder:
  """The summed cross-entropy of k masked tokens of a row, times L / k.

  k is uniform on 1 ... L.

  This is `masked_bound` of the linear schedule at t = k / L. The process must
  be absorbing, with the schedule alpha = 1 - t.

  Every set of masked positions has the weight that it has in the integral over
  t. So the mean is that of the continuous-time bound, also for rows with
  padding, and prior and reconstruction terms are 0. Each row has one k,
  stratified over the batch by `Batch.u`.

  Attributes:
    estimand: whether the mean of the loss bounds -log p(x0).
  """

  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the loss; its only term is diffusion."""
    model, x0 = models.student, batch.ids
    p = model.process
    length = x0.shape[-1]
    _, t = discrete(batch.u[:, None], length)
    count = jnp.round(t * length)
    keys = row_keys(key, batch.rows)
    mask_id = p.mask_id
    assert mask_id is not None
    mask = lambda key, x0, count: mask_exactly(key, x0, count, mask_id)
    xt = jax.vmap(mask)(keys, x0, count)
    loss = lambda head, x0, xt, t: masked_bound(p, x0, head, xt, t)
    nats = token_losses(model, loss, xt, t, x0, xt, t)
    return Loss(nats, {'diffusion': nats})
