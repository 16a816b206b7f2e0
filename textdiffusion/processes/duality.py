"""Gaussian noise on one-hot tokens, with its softmax and its argmax (Duo)."""

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.numerics import (
  distinct,
  fine_normal,
  largest_normals,
  match_ranks,
  one_hot,
  pytree,
  static,
)
from textdiffusion.core.types import Array, Key, Mixture, Time
from textdiffusion.processes.bridge import without_mask
from textdiffusion.processes.rank_one import RankOne, uniform
from textdiffusion.schedules.duality import GaussianArgmax


@pytree
class Duality:
  """w = sqrt(sigmoid(-gamma)) x + sqrt(sigmoid(gamma)) eps, x one-hot.

  At one time, `argmax(w)` is a draw from `discrete` (Sahoo et al. 2025,
  equation 10). Its path over several times is not, so bridges are those of
  `discrete`. The coordinate of the mask, if there is one, is -inf.

  Attributes:
    schedule: schedule of gamma, built for the number of tokens without the
      mask.
    num_states: number of states of a token, K.
    mask_id: id of the mask, or None.
  """

  schedule: GaussianArgmax
  num_states: int = static()
  mask_id: int | None = static(default=None)

  @property
  def discrete(self) -> RankOne:
    """The uniform process with the distribution of the argmax."""
    return uniform(self.num_states, self.schedule, self.mask_id)

  def latent(
    self, x0: Int[Array, '... L'], noise: Float[Array, '... L K'], t: Time
  ) -> Float[Array, '... L K']:
    """Returns w, [L, K].

    Args:
      x0: [L] clean tokens.
      noise: [L, K] standard normal draws.
      t: time.
    """
    gamma, noise, is_x0 = match_ranks(
      self.schedule.gamma(t)[..., None], noise, one_hot(x0, self.num_states)
    )
    signal = jnp.sqrt(jax.nn.sigmoid(-gamma))
    w = jnp.sqrt(jax.nn.sigmoid(gamma)) * noise
    w += jnp.where(is_x0, signal, 0.0)
    return without_mask(self.mask_id, w)

  def corrupt(
    self,
    key: Key,
    x0: Int[Array, '... L'],
    t: Time,
    temperature: Float[Array, ''] | float,
  ) -> tuple[Int[Array, '... L'], Float[Array, '... L K']]:
    """Draws w and returns its argmax and its softmax.

    Args:
      key: random key.
      x0: [L] clean tokens.
      t: time.
      temperature: temperature of the softmax.

    Returns:
      z = argmax(w), [L], and softmax(w / temperature), [L, K].
    """
    noise = fine_normal(key, (*x0.shape, self.num_states))
    w = self.latent(x0, noise, t)
    return jnp.argmax(w, axis=-1), jax.nn.softmax(w / temperature)

  def corrupt_largest(
    self,
    key: Key,
    x0: Int[Array, '... L'],
    t: Time,
    temperature: Float[Array, ''] | float,
    count: int,
  ) -> tuple[Int[Array, '... L'], Mixture]:
    """Does `corrupt` with the largest coordinates only, at a cost free of K.

    z has the same distribution. The softmax has the coordinate of x0 and the
    `count` largest others. At a temperature of 10^-3 the rest is 0 in float32;
    at 10^-1 the rest has most of the weight.

    Args:
      key: random key.
      x0: [L] clean tokens.
      t: time.
      temperature: temperature of the softmax.
      count: number k of other coordinates.

    Returns:
      z = argmax(w), [L], and the softmax as a mixture of [L, 1 + k] tokens.
    """
    x0, t = match_ranks(x0, t)
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
    else:
      # Ids skip x0 and the mask, the lower of them first.
      ids += ids >= jnp.minimum(own, self.mask_id)
      ids += ids >= jnp.maximum(own, self.mask_id)
    ids = jnp.concatenate([own, ids], -1)
    z = jnp.take_along_axis(ids, jnp.argmax(w, -1, keepdims=True), -1)
    return z[..., 0], Mixture(ids, jax.nn.softmax(w / temperature))
