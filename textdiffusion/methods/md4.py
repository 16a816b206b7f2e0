"""Simplified masked diffusion (MD4, Shi et al. 2024).

MDLM's process and bound under schedules that are squeezed to [eps, 1 - eps],
so that no weight is infinite; what that loses at either end is counted.
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import Vocab
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import Method, check_num_steps
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule, Squeezed


@dataclasses.dataclass(frozen=True)
class MD4:
  """schedule: `Linear()` (text), `Sine()` (MD4's cosine) or `Polynomial(k)`,
  before it is squeezed by eps. num_steps: T of the finite bound, 0 continuous.

  The network may see the time (as officially, `model.time=adaln`) or not: the
  exact denoiser of an absorbing process does not depend on it.
  """

  schedule: Schedule = Linear()
  num_steps: int = 0
  eps: float = 1e-4

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_num_steps(self.num_steps)

  def build(self, vocab: Vocab) -> Method:
    schedule = Squeezed(self.schedule, self.eps)
    return MDLM(schedule, self.num_steps).build(vocab)
