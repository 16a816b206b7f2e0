"""Uniform diffusion language models (UDLM, Schiff et al. 2024; Duo's base).

Tokens turn into other tokens and can be mended until the end. Trained on the
bound, so the head is a `Cavity`: a network trained with cross-entropy would be
a `Posterior`, and nothing else would change.
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import Cavity, Vocab
from textdiffusion.methods.method import Method, Needs, check_num_steps
from textdiffusion.model import RawHead
from textdiffusion.objectives.nelbo import Nelbo, rank_one_bound
from textdiffusion.processes.rank_one import uniform
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class UDLM:
  """schedule: of the noise. num_steps: T of the finite bound, 0 continuous.

  A mask token, if the tokenizer has one, is never drawn. The denoiser depends
  on time: give the network model.time=adaln.
  """

  schedule: Schedule = Linear()
  num_steps: int = 0

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_num_steps(self.num_steps)

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
