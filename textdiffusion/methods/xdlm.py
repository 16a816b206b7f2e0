"""Mixed noise in a fixed proportion (XDLM, Liu et al. 2026).

Between masked (`uniform_share` = 0, MDLM) and uniform diffusion (1, UDLM).
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import Cavity, UserError, Vocab
from textdiffusion.methods.method import Method, Needs, check_num_steps, mask_of
from textdiffusion.model import RawHead
from textdiffusion.objectives.nelbo import Nelbo, rank_one_bound
from textdiffusion.processes.rank_one import mixture
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class XDLM:
  """schedule: of the noise. num_steps: T of the finite bound, 0 continuous.

  uniform_share: k, the part of the noise that is on the tokens.
  """

  schedule: Schedule = Linear()
  uniform_share: float = 0.1
  num_steps: int = 0

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_num_steps(self.num_steps)
    if not 0 <= self.uniform_share <= 1:
      raise UserError(
        f'method.uniform_share={self.uniform_share}: must be in [0, 1]'
      )

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
