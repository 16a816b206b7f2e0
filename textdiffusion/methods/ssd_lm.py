"""Diffusion on the simplex: SSD-LM (Han et al. 2023) and TESS (Mahabadi et al.
2024).

SSD-LM generates one block of tokens after another, TESS a whole row at once. A
token is a corner of [-1, 1]^V, and noise is added to all V numbers. The network
takes the mean embedding under the softmax of these numbers and outputs token
logits.
"""

import dataclasses

from textdiffusion.core.types import Posterior, Vocab
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs
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
  """Options of SSD-LM and TESS.

  The sampler of the SSD-LM paper is `SemiAutoregressive()` around `Renoise()`,
  with estimates projected by `Clamp(token='drawn')`.

  Attributes:
    schedule: alpha of each step.
    num_steps: number of diffusion steps, T.
    scale: factor k of the inputs; the network takes softmax(k x).
    self_condition: probability that a training step averages this softmax with
      the network's own estimate (TESS); None turns self-conditioning off.
    block: tokens generated at once, given the tokens before them; 0 for a
      whole row.
  """

  schedule: Variances = SquaredCosine(1e-4)
  num_steps: int = 5000
  scale: float = 5.0
  self_condition: float | None = None
  block: int = 0

  def __post_init__(self) -> None:
    check_fields(
      self,
      num_steps='[3, inf)',
      scale='(0, inf)',
      self_condition='[0, 1]',
      block='[0, inf)',
    )

  @property
  def default_sampler(self) -> Sampler:
    sampler = GaussianAncestral()
    return SemiAutoregressive(self.block, sampler) if self.block else sampler

  def build(self, vocab: Vocab) -> Method:
    process = VariancePreserving(tabulated(self.schedule, self.num_steps))
    uses_estimate = self.self_condition is not None

    def wrap(network: Network) -> Network:
      return OnSimplex(network, vocab.size, self.scale, uses_estimate)

    return Method(
      process=process,
      objective=ScoreInterpolation(self.num_steps, self.self_condition),
      evaluator=InterpolationBound(self.num_steps, self.self_condition),
      head=RawHead(Posterior),
      sampler=self.default_sampler,
      needs=Needs(vocab.size, wrap=wrap, block=self.block),
    )
