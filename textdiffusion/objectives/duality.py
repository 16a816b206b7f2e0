"""Duo's curriculum: the uniform bound with soft inputs, then without them."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

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
  """Trains on a Gaussian latent for `steps` steps, then on `bound`.

  Curriculum learning of Sahoo et al. 2025. A Gaussian latent w is drawn at a
  noise level gamma, uniform on the window of `duality`. The noisy token is
  z = argmax(w), and the loss is the integrand of the bound at z. The network
  takes softmax(w / temperature) in place of z, and the time at which the
  model's process has as much signal.

  The loss is a surrogate: the softmax contains more information about x0 than
  z does, and times outside the window are left out. At temperature 0 it is the
  part of the bound between the ends of the window.

  Attributes:
    duality: the Gaussian process and its window.
    bound: the loss after the curriculum.
    steps: training steps of the curriculum.
    anneal_from: training step at which the temperature starts to change.
    log10_temperature: log10 of the softmax temperature until `anneal_from` and
      from `steps` on; linear in the step between them.
    largest: number of the largest coordinates of the latent that enter the
      softmax, beside the coordinate of x0; 0 for all. At a temperature of
      10^-3 the others are 0 in float32.
    estimand: whether the mean of the loss bounds -log p(x0).
  """

  duality: Duality
  bound: Nelbo
  steps: int
  anneal_from: int = 0
  log10_temperature: tuple[float, float] = (-3.0, -3.0)
  largest: int = 0
  estimand: Estimand = 'surrogate'

  def temperature(
    self, step: Int[Array, '*shape'] | int
  ) -> Float[Array, '*shape']:
    """Returns the temperature at a training step."""
    first, last = self.log10_temperature
    span = max(self.steps - self.anneal_from, 1)
    done = jnp.clip((step - self.anneal_from) / span, 0.0, 1.0)
    return 10.0 ** (first + done * (last - first))

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Returns the sum of the terms curriculum and those of the bound.

    The terms of the phase that is not running are 0. It takes one network call.

    Raises:
      TypeError: the batch has no training step.
    """
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
    self,
    model: Model,
    key: Key,
    batch: Batch,
    temperature: Float[Array, ''] | float,
  ) -> Float[Array, 'B L']:
    """Computes the curriculum loss at one place in the window per row.

    Args:
      model: the student.
      key: random key.
      batch: rows of data.
      temperature: temperature of the softmax.

    Returns:
      [B, L] nats per unit of the window.
    """
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
