"""Masked diffusion with a learnt masking rate per token (GenMD4, Shi et al.
2024).

The network outputs the posterior p(x0 | x_t), so a top-p filter applies to the
distribution that is sampled. The exact denoiser depends on time, so the network
needs time as an input (`model.time=adaln`).
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from textdiffusion.core.types import Vocab
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs, mask_of
from textdiffusion.nn.wrappers import WithParams
from textdiffusion.objectives.learnt_noise import LearntNoise
from textdiffusion.processes.bridge import restricted_posterior
from textdiffusion.processes.vector import VectorAbsorbing, learnable
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import PolynomialPerToken


@dataclasses.dataclass(frozen=True)
class GenMD4:
  """Options of GenMD4: token v is masked by alpha_v = 1 - (1 - eps) t^w_v.

  Attributes:
    power: initial value of every w_v.
    eps: signal that is left at t = 1.
    t1: smallest time of the training loss, see `LearntNoise`.
  """

  power: float = 1.0
  eps: float = 0.0
  t1: float = 1e-3

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_fields(self, power='(0, inf)', t1='[0, 1)')

  def build(self, vocab: Vocab) -> Method:
    size = vocab.size
    schedule = PolynomialPerToken(jnp.full(size, self.power), self.eps)
    process = VectorAbsorbing(schedule, size, mask_of(vocab))
    init = lambda key: {'power': learnable(self.power, size)}
    return Method(
      process=process,
      objective=LearntNoise(self.t1),
      evaluator=LearntNoise(self.t1, draws=1),
      head=restricted_posterior,
      sampler=self.default_sampler,
      needs=Needs(size, wrap=lambda network: WithParams(network, init)),
    )
