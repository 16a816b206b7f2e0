"""Gaussian noise on one-hot tokens, seen through its softmax and its argmax."""

import jax
import jax.numpy as jnp

from textdiffusion.core.numerics import fine_normal, pytree, static
from textdiffusion.core.types import Array, Key, Time
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
