"""Duo's curriculum: the uniform bound with soft inputs, then the bound."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import Array, Batch, Key
from textdiffusion.model import Model, token_losses
from textdiffusion.objectives.base import Estimand, Loss, Models
from textdiffusion.objectives.nelbo import Nelbo
from textdiffusion.processes.duality import Duality
from textdiffusion.schedules.noise import inverse
from textdiffusion.schedules.times import continuous


@dataclasses.dataclass(frozen=True)
class Curriculum:
  """For `steps` training steps the loss of a Gaussian latent, then `bound`.

  The latent w at gamma, drawn evenly from the window of `duality`, gives the
  noisy token z = argmax(w), and the loss is the bound's integrand at z; but
  the network takes softmax(w / temperature), and the time at which the model's
  process has that much signal. Curriculum learning of Sahoo et al. 2025.

  A surrogate: the softmax shows more of x0 than z does, and the window leaves
  out the rest of time. Where the temperature is 0 it is the part of the bound
  between the window's ends.

  largest: how many coordinates of the latent the softmax is of, beside that of
  x0; 0 for all. Enough at a temperature of 10^-3, where the rest is 0.

  log10_temperature: at step 0, and what it goes to, linearly, between the
  steps `anneal_from` and `steps`.
  """

  duality: Duality
  bound: Nelbo
  steps: int
  anneal_from: int = 0
  log10_temperature: tuple[float, float] = (-3.0, -3.0)
  largest: int = 0
  estimand: Estimand = 'surrogate'

  def temperature(self, step: Array) -> Array:
    """[] of a step of the curriculum."""
    first, last = self.log10_temperature
    span = max(self.steps - self.anneal_from, 1)
    done = jnp.clip((step - self.anneal_from) / span, 0.0, 1.0)
    return 10.0 ** (first + done * (last - first))

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the terms curriculum (0 afterwards) and those of the bound (0
    before), and their sum, with one network call."""
    if batch.step is None:
      raise TypeError('Curriculum needs Batch.step, the training step')
    step = batch.step[0]
    zeros = jnp.zeros(batch.ids.shape)

    def soft() -> Loss:
      nats = self.soft(models.student, key, batch, self.temperature(step))
      others = ('diffusion', 'prior', 'reconstruction')
      return Loss(nats, {'curriculum': nats, **dict.fromkeys(others, zeros)})

    def hard() -> Loss:
      nats, terms = self.bound(models, key, batch)
      return Loss(nats, {'curriculum': zeros, **terms})

    return jax.lax.cond(step < self.steps, soft, hard)

  def soft(
    self, model: Model, key: Key, batch: Batch, temperature: Array | float
  ) -> Array:
    """[B, L] nats per unit of the window, at one place in it per row."""
    p, place = self.duality.discrete, continuous(batch.u)[:, None]
    network_time = inverse(
      model.process.schedule, p.schedule(place).log_1m_alpha[..., 0]
    )
    corrupt: Any = self.duality.corrupt
    if 0 < self.largest < p.vocab_size - 1:
      corrupt = functools.partial(
        self.duality.corrupt_largest, count=self.largest
      )
    drawn: Any = jax.vmap(corrupt, (0, 0, 0, None))(
      row_keys(key, batch.rows), batch.ids, place, temperature
    )
    z, weights = drawn
    loss = lambda head, x0, z, t: self.bound.bound(p, x0, head, z, t)
    return token_losses(model, loss, weights, network_time, batch.ids, z, place)
