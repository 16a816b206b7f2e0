"""The any-order bound: a fixed number of masks, not a chance of masking.

Under the order in which tokens are revealed, averaged over all orders, the
bound of an absorbing process is that of autoregression in a random order
(ARDM, Hoogeboom et al. 2022; RADD's k-DCE, Ou et al. 2024).
"""

import dataclasses

import jax
import jax.numpy as jnp

from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import Array, Batch, Key
from textdiffusion.model import token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.objectives.nelbo import masked_bound
from textdiffusion.schedules.times import discrete


def mask_exactly(key: Key, x0: Array, count: Array, mask_id: int) -> Array:
  """[L] ids with `count` of them masked, every set equally likely."""
  place = jax.random.permutation(key, x0.shape[-1])
  return jnp.where(place < count, mask_id, x0)


@dataclasses.dataclass(frozen=True)
class AnyOrder:
  """k = 1 ... L masks a row, drawn evenly, and the cross-entropy on them times
  L / k, which is `masked_bound` of the linear schedule at t = k / L.

  The process must be absorbing, with the schedule alpha = 1 - t. Every set of
  masks has the weight it has in the integral over t, so the mean is the same,
  of a row with padding too, and there are no ends: one t a row is one k,
  stratified over the batch by `Batch.u`.
  """

  estimand: Estimand = 'nelbo'

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the nats, which are the one term."""
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
