"""Uniform-state diffusion by the duality with Gaussian noise (Duo, Sahoo et al.
2025).

Without the curriculum, training uses the bound of UDLM.
"""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import Cavity, UserError, Vocab
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import RawHead
from textdiffusion.objectives.duality import Curriculum
from textdiffusion.objectives.nelbo import Nelbo, rank_one_bound
from textdiffusion.processes.duality import Duality
from textdiffusion.processes.rank_one import uniform
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.duality import gamma_of_signal, gaussian_argmax
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class Duo:
  """Options of Duo.

  Attributes:
    schedule: schedule of the uniform noise, for the bound and for sampling.
    curriculum_steps: training steps with soft inputs; 0 for none.
    gamma_min: lower end of the curriculum's window, as the log of noise over
      signal of the Gaussian latent. None is where 0.95 of the discrete signal
      is left, which depends on the vocabulary (-3.5 or -3.55 in the paper).
    gamma_max: upper end of that window. None is where 0.05 of the discrete
      signal is left (-1.75 or -1.85 in the paper).
    log10_temperature: log10 of the softmax temperature, at the start and at
      the end of the curriculum.
    anneal_from: training step at which the temperature starts to change.
    largest: number of the largest coordinates in the softmax, beside x0; 0 for
      all. Only for temperatures up to 0.01: above that, the coordinates left
      out have weight.
  """

  schedule: Schedule = Linear()
  curriculum_steps: int = 500_000
  gamma_min: float | None = None
  gamma_max: float | None = None
  log10_temperature: tuple[float, ...] = (-3.0, -3.0)
  anneal_from: int = 0
  largest: int = 16

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    if len(self.log10_temperature) != 2:
      raise UserError(
        f'method.log10_temperature={self.log10_temperature}: must be two '
        'numbers, at the start and at the end'
      )
    if self.largest and max(self.log10_temperature) > -2:
      raise UserError(
        f'method.largest={self.largest} with method.log10_temperature='
        f'{self.log10_temperature}: above -2 the tokens left out have weight; '
        'set method.largest=0'
      )
    check_fields(self, curriculum_steps='[0, inf)', largest='[0, inf)')
    if self.curriculum_steps and not (
      0 <= self.anneal_from < self.curriculum_steps
    ):
      raise UserError(
        f'method.anneal_from={self.anneal_from}: must be at least 0 and below '
        f'method.curriculum_steps={self.curriculum_steps}'
      )

  def build(self, vocab: Vocab) -> Method:
    process = uniform(vocab.size, self.schedule, vocab.mask_id)
    evaluator = Nelbo(rank_one_bound)
    size = process.vocab_size
    low, high = self.gamma_min, self.gamma_max
    window = gaussian_argmax(
      size,
      gamma_of_signal(0.95, size) if low is None else low,
      gamma_of_signal(0.05, size) if high is None else high,
    )
    duality = Duality(window, vocab.size, vocab.mask_id)
    first, last = self.log10_temperature
    curriculum = Curriculum(
      duality,
      evaluator,
      self.curriculum_steps,
      self.anneal_from,
      (first, last),
      self.largest,
    )
    return Method(
      process=process,
      objective=curriculum if self.curriculum_steps else evaluator,
      evaluator=evaluator,
      head=RawHead(Cavity),
      sampler=self.default_sampler,
      needs=Needs(vocab.size),
    )
