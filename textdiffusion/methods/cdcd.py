"""Continuous diffusion for categorical data (CDCD, Dieleman et al. 2022)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.types import (
  Array,
  Batch,
  Facts,
  Features,
  Posterior,
  UserError,
  Vocab,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import RawHead
from textdiffusion.objectives.score_interpolation import (
  InterpolationBound,
  ScoreInterpolation,
)
from textdiffusion.processes.variance_preserving import Fitted
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.latent import GaussianAncestral
from textdiffusion.schedules.adaptive import Adaptive, PerPosition, Refits


@dataclasses.dataclass(frozen=True)
class CDCD:
  """Options of CDCD: noise of standard deviation sigma on token embeddings.

  Embeddings have mean square 1, so sigma is the ratio of noise to signal.

  Attributes:
    size: D, numbers in an embedding.
    sigma_min: sigma at t = 1 / T, the least noise.
    sigma_max: sigma at t = 1.
    num_steps: T, number of noise levels.
    self_condition: probability that a training step feeds the network its own
      estimate of x0; None builds a network without that input.
    warp: if True, times are warped so that the cross-entropy is linear in t;
      if False, sigma is linear in t.
    bins: number of bins of noise levels in which the cross-entropy is
      averaged; must divide `num_steps`.
    refit_every: training steps between fits of the warp.
  """

  size: int = 256
  sigma_min: float = 1.0
  sigma_max: float = 300.0
  num_steps: int = 1000
  self_condition: float | None = 0.5
  warp: bool = True
  bins: int = 100
  refit_every: int = 1000

  default_sampler: ClassVar[Sampler] = GaussianAncestral()

  def __post_init__(self) -> None:
    check_fields(
      self,
      size='[1, inf)',
      num_steps='[3, inf)',
      self_condition='[0, 1]',
      bins='[2, inf)',
      refit_every='[1, inf)',
    )
    if not 0 < self.sigma_min < self.sigma_max:
      raise UserError(
        f'method.sigma_min={self.sigma_min}: must be above 0 and below '
        f'method.sigma_max={self.sigma_max}'
      )
    if self.warp and self.num_steps % self.bins:
      raise UserError(
        f'method.bins={self.bins}: must divide '
        f'method.num_steps={self.num_steps}'
      )

  def build(self, vocab: Vocab) -> Method:
    sigma = jnp.linspace(self.sigma_min, self.sigma_max, self.num_steps)
    alpha = (1 / (1 + sigma**2))[:, None]
    refits = Refits(alpha, self.bins, self.refit_every, self.refit_every)
    process = Fitted(PerPosition(alpha))
    uses_estimate = self.self_condition is not None
    return Method(
      process=process,
      objective=ScoreInterpolation(self.num_steps, self.self_condition),
      evaluator=InterpolationBound(self.num_steps, self.self_condition),
      head=RawHead(Posterior),
      sampler=self.default_sampler,
      needs=Needs(
        vocab.size,
        features=Features(
          self.size,
          self_condition=uses_estimate,
          predicts='tokens',
          norm='root',
        ),
      ),
      state=TimeWarp(refits) if self.warp else None,
    )


@dataclasses.dataclass(frozen=True)
class TimeWarp:
  """Method state of CDCD: a schedule that makes the cross-entropy linear in t.

  Attributes:
    refits: rule for when and how the schedule is fitted.
  """

  refits: Refits

  def init(self, facts: Facts) -> Adaptive:
    return self.refits.init()

  def before_step(
    self, state: Adaptive, facts: Facts, step: Int[Array, '']
  ) -> Adaptive:
    return self.refits.before_step(state, step)

  def after_step(
    self, state: Adaptive, batch: Batch, terms: dict[str, Float[Array, 'B L']]
  ) -> Adaptive:
    count = batch.is_counted.sum(-1, keepdims=True)
    nats = jnp.where(batch.is_counted, terms['cross_entropy'], 0.0)
    mean = nats.sum(-1, keepdims=True) / jnp.maximum(count, 1)
    return self.refits.observe(state, batch.u, mean, count > 0)
