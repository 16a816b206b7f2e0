"""Masked diffusion language models (MDLM, Sahoo et al. 2024).

The SUBS parameterisation needs no code here: with a `Cavity` head, the bridge
of the absorbing process gives the mask probability 0 and copies every unmasked
token.
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import Cavity, Vocab
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs, mask_of
from textdiffusion.model import RawHead
from textdiffusion.objectives.nelbo import Nelbo, masked_bound
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class MDLM:
  """Options of MDLM.

  Every schedule gives a valid bound: signal left at t = 1 and noise left at
  t = 0 are counted.

  Attributes:
    schedule: noise schedule of the masking.
    num_steps: number of steps of the bound, T; 0 is continuous time.
  """

  schedule: Schedule = Linear()
  num_steps: int = 0

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_fields(self, num_steps='[0, inf)')

  def build(self, vocab: Vocab) -> Method:
    process = absorbing(vocab.size, mask_of(vocab), self.schedule)
    objective = Nelbo(masked_bound, self.num_steps)
    return Method(
      process=process,
      objective=objective,
      evaluator=objective,
      head=RawHead(Cavity),
      sampler=self.default_sampler,
      needs=Needs(vocab.size),
    )
