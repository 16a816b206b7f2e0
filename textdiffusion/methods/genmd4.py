"""Masked diffusion with a learnt rate for each token (GenMD4, Shi et al. 2024).

The network gives the posterior, so a top-p filter acts on what is drawn; it
must see the time (`model.time=adaln`), on which the exact denoiser depends.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from textdiffusion.core.types import UserError, Vocab
from textdiffusion.methods.method import Method, Needs, mask_of
from textdiffusion.nn.wrappers import WithParams
from textdiffusion.objectives.learnt_noise import LearntNoise
from textdiffusion.processes.bridge import possible
from textdiffusion.processes.vector import VectorAbsorbing, learnable
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import PolynomialPerToken


@dataclasses.dataclass(frozen=True)
class GenMD4:
  """alpha_v = 1 - (1 - eps) t^w_v. power: every w_v at first. t1: the earliest
  time of the loss, see `LearntNoise`."""

  power: float = 1.0
  eps: float = 0.0
  t1: float = 1e-3

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    if self.power <= 0:
      raise UserError(f'method.power={self.power}: must be positive')
    if not 0 <= self.t1 < 1:
      raise UserError(f'method.t1={self.t1}: must be in [0, 1)')

  def build(self, vocab: Vocab) -> Method:
    size = vocab.size
    schedule = PolynomialPerToken(jnp.full(size, self.power), self.eps)
    process = VectorAbsorbing(schedule, size, mask_of(vocab))
    init = lambda key: {'power': learnable(self.power, size)}
    return Method(
      process=process,
      objective=LearntNoise(self.t1),
      evaluator=LearntNoise(self.t1, draws=1),
      head=possible,
      sampler=self.default_sampler,
      needs=Needs(size, wrap=lambda network: WithParams(network, init)),
    )
