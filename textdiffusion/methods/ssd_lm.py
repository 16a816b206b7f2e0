"""Diffusion on the simplex: SSD-LM (Han et al. 2023), a block of tokens after
another, and TESS (Mahabadi et al. 2024), a row at once.

A token is a corner of [-1, 1]^V, and noise is added to all V numbers; the
network takes the embeddings mixed by their softmax and returns token logits.
"""

import dataclasses

from textdiffusion.core.types import Posterior, UserError, Vocab
from textdiffusion.methods.method import Method, Needs, check_chance
from textdiffusion.model import RawHead
from textdiffusion.nn.network import Network
from textdiffusion.nn.wrappers import OnSimplex
from textdiffusion.objectives.score_interpolation import (
  InterpolationBound,
  ScoreInterpolation,
)
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.latent import GaussianAncestral
from textdiffusion.samplers.semi_autoregressive import SemiAutoregressive
from textdiffusion.schedules.variances import (
  SquaredCosine,
  Variances,
  tabulated,
)


@dataclasses.dataclass(frozen=True)
class SSDLM:
  """schedule: of alpha on num_steps steps. scale: of the logits at a corner, k:
  the network sees softmax(k x). self_condition: TESS's mean of that and the
  last estimate, the chance that training shows one; None for never. block:
  tokens that are generated at once, given those before; 0 for a row.

  SSD-LM samples by `SemiAutoregressive()` around `Renoise()`, and projects
  estimates by `Clamp(token='drawn')`.
  """

  schedule: Variances = SquaredCosine(1e-4)
  num_steps: int = 5000
  scale: float = 5.0
  self_condition: float | None = None
  block: int = 0

  def __post_init__(self) -> None:
    check_chance(self.self_condition)
    if self.num_steps < 3:
      raise UserError(f'method.num_steps={self.num_steps}: must be at least 3')
    if self.scale <= 0:
      raise UserError(f'method.scale={self.scale}: must be positive')
    if self.block < 0:
      raise UserError(f'method.block={self.block}: must be at least 0')

  @property
  def default_sampler(self) -> Sampler:
    sampler = GaussianAncestral()
    return SemiAutoregressive(self.block, sampler) if self.block else sampler

  def build(self, vocab: Vocab) -> Method:
    process = VariancePreserving(tabulated(self.schedule, self.num_steps))
    shown = self.self_condition is not None

    def wrap(network: Network) -> Network:
      return OnSimplex(network, vocab.size, self.scale, shown)

    return Method(
      process=process,
      objective=ScoreInterpolation(self.num_steps, self.self_condition),
      evaluator=InterpolationBound(self.num_steps, self.self_condition),
      head=RawHead(Posterior),
      sampler=self.default_sampler,
      needs=Needs(vocab.size, wrap=wrap, block=self.block),
    )
