"""A process on a grid with a last step that masks every token.

Noise that does not mix within T steps leaves a large prior term. So the
official D3PM code ends nearest-neighbour noise with a mask
(`override_last_step_to_mask`). Then x_1 contains no information, and the prior
is exact whatever the noise before.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log_one_hot, match_ranks, pytree, static
from textdiffusion.core.types import Array, Facts, Key, Time
from textdiffusion.processes.grid import GridProcess, identity


@pytree
class MaskLast(GridProcess):
  """A process whose last step turns every token into the mask.

  Attributes:
    inner: process of the steps before; its noise leaves the mask as it is.
    num_states: number of states of a token, K.
    num_steps: number of steps, T.
    mask_id: id of the mask.
  """

  inner: GridProcess
  num_states: int = static()  # ty: ignore[incompatible-attribute-override]
  num_steps: int = static()  # ty: ignore[incompatible-attribute-override]
  mask_id: int = static()  # ty: ignore[incompatible-attribute-override]

  def refresh(self, facts: Facts) -> 'MaskLast':
    """Returns the process with its inner process refreshed."""
    inner: Any = self.inner.refresh(facts)
    return dataclasses.replace(self, inner=inner)

  def prior(self) -> Categorical:
    """Returns the distribution that is the mask for sure, [K]."""
    return Categorical(self._masks(()))

  def marginal(
    self, x0: Int[Array, '...'] | Float[Array, '... K'], t: Time
  ) -> Categorical:
    """Returns q_t(. | x0), [L, K], for ids [L] or clean logits [L, K]."""
    before = self.inner.marginal(x0, self._inner_time(t)).logits
    is_last = self.place(t) == self.num_steps
    is_last, masks, before = match_ranks(
      is_last[..., None], self._masks(()), before
    )
    return Categorical(jnp.where(is_last, masks, before))

  def corrupt(
    self, key: Key, x0: Int[Array, '... L'], t: Time
  ) -> Int[Array, '... L']:
    """Draws noisy tokens [L]."""
    x0, t = match_ranks(x0, t)
    before = self.inner.corrupt(key, x0, self._inner_time(t))
    return jnp.where(self.place(t) == self.num_steps, self.mask_id, before)

  def column(
    self, z: Int[Array, '... L'], s: Time, t: Time
  ) -> Float[Array, '... L K']:
    """Returns log q_{t|s}(z | y) for every y, [L, K].

    At t = 1 it is 0 for the mask, whatever y.
    """
    z, s, t = match_ranks(z, s, t)
    first, last = self.place(s), self.place(t)
    is_mask = self.is_mask(z)
    token = jnp.where(is_mask, (self.mask_id == 0) * 1, z)
    before = self.inner.column(token, self._inner_time(s), self._inner_time(t))
    is_last = last == self.num_steps
    of_mask = jnp.where(is_mask, 0.0, -jnp.inf)[..., None]
    log_probs = jnp.where(is_last[..., None], of_mask, before)
    return identity(z, log_probs, (first == last) | (is_mask & ~is_last))

  def _inner_time(self, t: Time) -> Float[Array, '...']:
    return jnp.minimum(self.place(t), self.num_steps - 1) / self.num_steps

  def _masks(self, shape: tuple[int, ...]) -> Float[Array, '... K']:
    return log_one_hot(jnp.full(shape, self.mask_id), self.num_states)


def mask_last(inner: GridProcess) -> MaskLast:
  """Raises ValueError for a process without a mask."""
  if inner.mask_id is None:
    raise ValueError('a last step of masks needs a process with a mask_id')
  return MaskLast(inner, inner.num_states, inner.num_steps, inner.mask_id)
