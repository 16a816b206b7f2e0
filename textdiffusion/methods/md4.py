"""Simplified masked diffusion (MD4, Shi et al. 2024).

The process and the bound of MDLM with schedules squeezed to [eps, 1 - eps], so
that no weight is infinite. The bound counts the noise that this leaves at t = 0
and the signal that it leaves at t = 1.
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import Vocab
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import Method
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule, Squeezed


@dataclasses.dataclass(frozen=True)
class MD4:
  """Options of MD4.

  The exact denoiser of an absorbing process does not depend on time, so the
  network may take time as an input (`model.time=adaln`, as in the official
  code) or not.

  Attributes:
    schedule: noise schedule before it is squeezed: `Linear()` (text), `Sine()`
      (MD4's cosine) or `Polynomial(k)`.
    num_steps: number of steps of the bound, T; 0 is continuous time.
    eps: distance of the squeezed schedule from 0 and 1.
  """

  schedule: Schedule = Linear()
  num_steps: int = 0
  eps: float = 1e-4

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_fields(self, num_steps='[0, inf)')

  def build(self, vocab: Vocab) -> Method:
    schedule = Squeezed(self.schedule, self.eps)
    return MDLM(schedule, self.num_steps).build(vocab)
