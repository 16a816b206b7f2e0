"""Gaussian noise on one-hot tokens, seen through its softmax and its argmax."""

import jax
import jax.numpy as jnp

from textdiffusion.core.numerics import (
  distinct,
  fine_normal,
  largest_normals,
  pytree,
  static,
)
from textdiffusion.core.types import Array, Key, Mixture, Time
from textdiffusion.processes.rank_one import RankOne, uniform
from textdiffusion.schedules.duality import GaussianArgmax


@pytree
class Duality:
  """w = sqrt(sigmoid(-gamma)) x + sqrt(sigmoid(gamma)) eps, x one-hot.

  `argmax(w)` at one time is a draw of `discrete` (Sahoo et al. 2025, eq. 10);
  its path in time is not, so bridges are those of `discrete`. The mask,
  if any, takes no part: its coordinate is -inf.

  schedule: made for `num_states` tokens, less the mask.
  """

  schedule: GaussianArgmax
  num_states: int = static()
  mask_id: int | None = static(default=None)

  @property
  def discrete(self) -> RankOne:
    """The uniform process that the argmax follows."""
    return uniform(self.num_states, self.schedule, self.mask_id)

  def latent(self, x0: Array, noise: Array, t: Time) -> Array:
    """[L] ids, [L, K] standard normal -> w, [L, K]."""
    gamma = self.schedule.gamma(t)[..., None]
    states = jnp.arange(self.num_states)
    signal = jnp.sqrt(jax.nn.sigmoid(-gamma))
    w = jnp.sqrt(jax.nn.sigmoid(gamma)) * noise
    w += jnp.where(x0[..., None] == states, signal, 0.0)
    return jnp.where(states == self.mask_id, -jnp.inf, w)

  def corrupt(
    self, key: Key, x0: Array, t: Time, temperature: Array | float
  ) -> tuple[Array, Array]:
    """[L] -> z = argmax(w), [L], and softmax(w / temperature), [L, K]."""
    noise = fine_normal(key, (*x0.shape, self.num_states))
    w = self.latent(x0, noise, t)
    return jnp.argmax(w, axis=-1), jax.nn.softmax(w / temperature)

  def corrupt_largest(
    self, key: Key, x0: Array, t: Time, temperature: Array | float, count: int
  ) -> tuple[Array, Mixture]:
    """The same of x0's and the `count` largest other coordinates, [L, 1 + k],
    at a cost that does not grow with K.

    z has the same law. The softmax leaves out the rest: of a temperature of
    10^-3 nothing that float32 could show, of 10^-1 most.
    """
    others = self.discrete.vocab_size - 1
    key_own, key_order, key_ids = jax.random.split(key, 3)
    gamma = self.schedule.gamma(t)[..., None]
    largest = largest_normals(key_order, x0.shape, count, others)
    noise = [fine_normal(key_own, (*x0.shape, 1)), largest]
    w = jnp.sqrt(jax.nn.sigmoid(gamma)) * jnp.concatenate(noise, -1)
    w = w.at[..., 0].add(jnp.sqrt(jax.nn.sigmoid(-gamma[..., 0])))
    ids, own = distinct(key_ids, x0.shape, count, others), x0[..., None]
    if self.mask_id is None:
      ids += ids >= own
    else:  # around both, the lower first
      ids += ids >= jnp.minimum(own, self.mask_id)
      ids += ids >= jnp.maximum(own, self.mask_id)
    ids = jnp.concatenate([own, ids], -1)
    z = jnp.take_along_axis(ids, jnp.argmax(w, -1, keepdims=True), -1)
    return z[..., 0], Mixture(ids, jax.nn.softmax(w / temperature))
