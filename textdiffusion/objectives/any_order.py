"""The any-order bound: a fixed number of masks, not a chance of masking.

Under the order in which tokens are revealed, averaged over all orders, the
bound of an absorbing process is that of autoregression in a random order
(ARDM, Hoogeboom et al. 2022; RADD's k-DCE, Ou et al. 2024).
"""

from typing import Literal

import jax
import jax.numpy as jnp

from textdiffusion.core.binding import each_token
from textdiffusion.core.keys import row_keys
from textdiffusion.core.numerics import pytree
from textdiffusion.core.types import Array, Batch, Key, Model
from textdiffusion.objectives.nelbo import masked_bound
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.schedules.times import discrete


def mask_exactly(key: Key, x0: Array, count: Array, mask_id: int) -> Array:
  """[L] ids with `count` of them masked, every set equally likely."""
  place = jax.random.permutation(key, x0.shape[-1])
  return jnp.where(place < count, mask_id, x0)


@pytree
class AnyOrder:
  """k = 1 ... L masks a row, drawn evenly, and the cross-entropy on them times
  L / k, which is `masked_bound` of the linear schedule at t = k / L.

  process: absorbing, with the schedule alpha = 1 - t. Every set of masks has
  the weight it has in the integral over t, so the mean is the same, of a row
  with padding too, and there are no ends: one t a row is one k, stratified
  over the batch by `Batch.u`.
  """

  process: RankOne

  @property
  def estimand(self) -> Literal['nelbo', 'surrogate']:
    return 'nelbo'

  def __call__(
    self, model: Model, key: Key, batch: Batch
  ) -> tuple[Array, dict[str, Array]]:
    """-> [B, L] nats, and the one term of them."""
    p, x0 = self.process, batch.ids
    length = x0.shape[-1]
    _, t = discrete(batch.u[:, None], length)
    count = jnp.round(t * length)
    keys = row_keys(key, batch.rows)
    mask_id = p.mask_id
    assert mask_id is not None
    mask = lambda key, x0, count: mask_exactly(key, x0, count, mask_id)
    xt = jax.vmap(mask)(keys, x0, count)
    loss = lambda head, x0, xt, t: masked_bound(p, x0, head, xt, t)
    nats = each_token(model, loss, xt, t, x0, xt, t)
    return nats, {'diffusion': nats}
