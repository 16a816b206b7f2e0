"""Flow matching on embeddings with a network that predicts tokens.

Lipman et al. 2023; for text Hu et al. 2024, and later ELF and FLM. The flow
x_t = (1 - t) x0 + t noise, scaled to unit variance, is diffusion with the
schedule `LinearPath`. So `ddim` is Euler's method for its ODE, `dpm_solver` a
second-order method, and `ancestral` an SDE with the same marginals.
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import (
  Features,
  Posterior,
  Vocab,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import RawHead
from textdiffusion.objectives.score_interpolation import (
  InterpolationBound,
  ScoreInterpolation,
)
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.latent import GaussianAncestral
from textdiffusion.schedules.noise import LinearPath


@dataclasses.dataclass(frozen=True)
class FlowLM:
  """Options of flow matching on embeddings.

  Attributes:
    size: D, numbers in an embedding; each is scaled to mean square 1.
    self_condition: probability that a training step feeds the network its own
      estimate of x0; None builds a network without that input.
    bound_steps: T, steps of the bound on -log p that is reported. Training and
      sampling use continuous time.
  """

  size: int = 128
  self_condition: float | None = 0.5
  bound_steps: int = 1000

  default_sampler: ClassVar[Sampler] = GaussianAncestral()

  def __post_init__(self) -> None:
    check_fields(
      self, size='[1, inf)', self_condition='[0, 1]', bound_steps='[3, inf)'
    )

  def build(self, vocab: Vocab) -> Method:
    process = VariancePreserving(LinearPath())
    uses_estimate = self.self_condition is not None
    return Method(
      process=process,
      objective=ScoreInterpolation(0, self.self_condition),
      evaluator=InterpolationBound(self.bound_steps, self.self_condition),
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
    )
