"""Uniform diffusion language models (UDLM, Schiff et al. 2024; Duo's base).

Noise turns tokens into other tokens, so a sampler can correct a token until the
last step. The network is trained on the bound, so its head is a `Cavity`. A
network trained with cross-entropy would have a `Posterior` head, and nothing
else would change.
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import Cavity, Vocab
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import RawHead
from textdiffusion.objectives.nelbo import Nelbo, rank_one_bound
from textdiffusion.processes.rank_one import uniform
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class UDLM:
  """Options of UDLM.

  A mask token, if the tokenizer has one, is never drawn. The exact denoiser
  depends on time, so the network needs time as an input (`model.time=adaln`).

  Attributes:
    schedule: noise schedule.
    num_steps: number of steps of the bound, T; 0 is continuous time.
  """

  schedule: Schedule = Linear()
  num_steps: int = 0

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_fields(self, num_steps='[0, inf)')

  def build(self, vocab: Vocab) -> Method:
    process = uniform(vocab.size, self.schedule, vocab.mask_id)
    objective = Nelbo(rank_one_bound, self.num_steps)
    return Method(
      process=process,
      objective=objective,
      evaluator=objective,
      head=RawHead(Cavity),
      sampler=self.default_sampler,
      needs=Needs(vocab.size),
    )
