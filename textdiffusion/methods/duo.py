"""Uniform-state diffusion by the duality with Gaussians (Duo, Sahoo et al.
2025). Without the curriculum it is the bound of UDLM."""

import dataclasses
from typing import ClassVar

from textdiffusion.core.types import Cavity, UserError, Vocab
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
  """schedule: of the resampling, for the bound and for sampling.

  curriculum_steps: training steps with soft inputs, 0 for none. gamma_min,
  gamma_max: the window of the latent's log noise over signal; None is where
  0.95 and where 0.05 of the discrete signal is left, which depends on the
  vocabulary (-3.5, -1.75 and -3.55, -1.85 in the paper). log10_temperature: of
  the softmax, at the start and at the end, moving after `anneal_from` steps.
  largest: the softmax is of x0 and that many others, the largest; 0 for all.
  As the left-out weight grows with the temperature, all below 0.01 only.
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
        f'{self.log10_temperature}: above -2 the other tokens have weight: set '
        'method.largest=0'
      )
    for name in ('curriculum_steps', 'largest'):
      if getattr(self, name) < 0:
        raise UserError(
          f'method.{name}={getattr(self, name)}: must be at least 0'
        )
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
