"""Any process on a grid, whose last step masks every token.

Noise that does not mix within T steps leaves a large prior term; the official
D3PM code ends nearest-neighbour noise so (`override_last_step_to_mask`). Then
x_1 tells nothing and the prior is exact, whatever the noise before.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log_one_hot, pytree, static
from textdiffusion.core.types import Array, Facts, Key, Time
from textdiffusion.processes.grid import GridProcess, identity


@pytree
class MaskLast(GridProcess):
  """inner: what happens before the last step; it has a mask and leaves it."""

  inner: GridProcess
  num_states: int = static()  # ty: ignore[incompatible-attribute-override]
  num_steps: int = static()  # ty: ignore[incompatible-attribute-override]
  mask_id: int = static()  # ty: ignore[incompatible-attribute-override]

  def refresh(self, facts: Facts) -> 'MaskLast':
    inner: Any = self.inner.refresh(facts)
    return dataclasses.replace(self, inner=inner)

  def prior(self) -> Categorical:
    """The mask, [K]."""
    return Categorical(self._masks(()))

  def marginal(self, x0: Array, t: Time) -> Categorical:
    """ids [L] or logits [L, K] -> [L, K]."""
    before = self.inner.marginal(x0, self._inner_time(t)).logits
    is_last = self.place(t) == self.num_steps
    return Categorical(jnp.where(is_last[..., None], self._masks(()), before))

  def corrupt(self, key: Key, x0: Array, t: Time) -> Array:
    """[L] -> [L]."""
    before = self.inner.corrupt(key, x0, self._inner_time(t))
    return jnp.where(self.place(t) == self.num_steps, self.mask_id, before)

  def column(self, z: Array, s: Time, t: Time) -> Array:
    """log q_{t|s}(z | y): [L] -> [L, K]; after the last step, of a mask, 0."""
    first, last = self.place(s), self.place(t)
    is_mask = self.is_mask(z)
    token = jnp.where(is_mask, (self.mask_id == 0) * 1, z)
    before = self.inner.column(token, self._inner_time(s), self._inner_time(t))
    is_last = last == self.num_steps
    of_mask = jnp.where(is_mask, 0.0, -jnp.inf)[..., None]
    log_probs = jnp.where(is_last[..., None], of_mask, before)
    return identity(z, log_probs, (first == last) | (is_mask & ~is_last))

  def _inner_time(self, t: Time) -> Array:
    return jnp.minimum(self.place(t), self.num_steps - 1) / self.num_steps

  def _masks(self, shape: tuple[int, ...]) -> Array:
    return log_one_hot(jnp.full(shape, self.mask_id), self.num_states)


def mask_last(inner: GridProcess) -> MaskLast:
  """Raises ValueError for a process without a mask."""
  if inner.mask_id is None:
    raise ValueError('a last step of masks needs a process with a mask_id')
  return MaskLast(inner, inner.num_states, inner.num_steps, inner.mask_id)
