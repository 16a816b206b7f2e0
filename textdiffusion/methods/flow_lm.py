"""Flow matching of embeddings (Lipman et al. 2023; for text Hu et al. 2024, and
ELF and FLM since), with a network that says tokens.

The flow of x_t = (1 - t) x0 + t noise, at unit variance, is the diffusion of
`LinearPath`: `ddim` is Euler's step of the ODE, `dpm_solver` one of second
order, and `ancestral` the SDE of the same marginals.
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import (
  Features,
  Posterior,
  UserError,
  Vocab,
)
from textdiffusion.methods.method import Method, Needs, check_chance
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
  """size: D, of embeddings of mean square 1. self_condition: the chance that
  training shows an estimate, None for never. bound_steps: T of the bound that
  is reported; training and sampling are in continuous time."""

  size: int = 128
  self_condition: float | None = 0.5
  bound_steps: int = 1000

  default_sampler: ClassVar[Sampler] = GaussianAncestral()

  def __post_init__(self) -> None:
    check_chance(self.self_condition)
    for name, least in (('size', 1), ('bound_steps', 3)):
      if getattr(self, name) < least:
        raise UserError(
          f'method.{name}={getattr(self, name)}: must be at least {least}'
        )

  def build(self, vocab: Vocab) -> Method:
    process = VariancePreserving(LinearPath())
    shown = self.self_condition is not None
    return Method(
      process=process,
      objective=ScoreInterpolation(0, self.self_condition),
      evaluator=InterpolationBound(self.bound_steps, self.self_condition),
      head=RawHead(Posterior),
      sampler=self.default_sampler,
      needs=Needs(
        vocab.size,
        features=Features(
          self.size, self_condition=shown, says='tokens', norm='root'
        ),
      ),
    )
