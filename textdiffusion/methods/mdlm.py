"""Masked diffusion language models (MDLM, Sahoo et al. 2024).

SUBS needs no code: a `Cavity` head through the absorbing bridge never gives
mass to the mask and copies every visible token.
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import Cavity, Vocab
from textdiffusion.methods.method import Method, Needs, check_num_steps, mask_of
from textdiffusion.model import RawHead
from textdiffusion.objectives.nelbo import Nelbo, masked_bound
from textdiffusion.processes.rank_one import absorbing
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class MDLM:
  """schedule: of the masking. num_steps: T of the finite bound, 0 continuous.

  Any schedule gives a bound: what it leaves of signal at t = 1 and of noise at
  t = 0 is counted.
  """

  schedule: Schedule = Linear()
  num_steps: int = 0

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_num_steps(self.num_steps)

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
