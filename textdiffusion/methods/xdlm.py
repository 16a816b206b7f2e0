"""Diffusion with a fixed mixture of masks and uniform tokens (XDLM, Liu et al.
2026).

`uniform_share=0` is masked diffusion (MDLM), 1 is uniform diffusion (UDLM).
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import Cavity, Vocab
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs, mask_of
from textdiffusion.model import RawHead
from textdiffusion.objectives.nelbo import Nelbo, rank_one_bound
from textdiffusion.processes.rank_one import mixture
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class XDLM:
  """Options of XDLM.

  Attributes:
    schedule: noise schedule.
    uniform_share: share of the noise that is uniform over tokens, k in the
      paper; the rest is the mask.
    num_steps: number of steps of the bound, T; 0 is continuous time.
  """

  schedule: Schedule = Linear()
  uniform_share: float = 0.1
  num_steps: int = 0

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_fields(self, num_steps='[0, inf)', uniform_share='[0, 1]')

  def build(self, vocab: Vocab) -> Method:
    process = mixture(
      vocab.size, mask_of(vocab), self.schedule, self.uniform_share
    )
    objective = Nelbo(rank_one_bound, self.num_steps)
    return Method(
      process=process,
      objective=objective,
      evaluator=objective,
      head=RawHead(Cavity),
      sampler=self.default_sampler,
      needs=Needs(vocab.size),
    )
