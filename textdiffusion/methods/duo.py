"""Uniform-state diffusion by the duality with Gaussians (Duo, Sahoo et al.
2025). Without the curriculum it is the bound of UDLM."""

import dataclasses

from textdiffusion.core.types import Cavity, UserError, Vocab, typed
from textdiffusion.methods.method import Method
from textdiffusion.objectives.duality import Curriculum
from textdiffusion.objectives.nelbo import Nelbo, rate_bound
from textdiffusion.processes.duality import Duality
from textdiffusion.processes.rank_one import uniform
from textdiffusion.sampling.generate import diffusion_sampler
from textdiffusion.schedules.duality import gaussian_argmax
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class Duo:
  """schedule: of the resampling, for the bound and for sampling.

  curriculum_steps: training steps with soft inputs, 0 for none. gamma_min,
  gamma_max: window of the latent's log noise over signal; one that spans 0.95
  to 0.05 of the discrete signal depends on the vocabulary. log10_temperature:
  of the softmax, at the start and at the end, moving after `anneal_from` steps.
  """

  schedule: Schedule = Linear()
  curriculum_steps: int = 500_000
  gamma_min: float = -3.5
  gamma_max: float = -1.75
  log10_temperature: tuple[float, ...] = (-3.0, -3.0)
  anneal_from: int = 0

  def __post_init__(self) -> None:
    if len(self.log10_temperature) != 2:
      raise UserError(
        f'method.log10_temperature={self.log10_temperature}: must be two '
        'numbers, at the start and at the end'
      )
    if self.curriculum_steps < 0:
      raise UserError(
        f'method.curriculum_steps={self.curriculum_steps}: must be at least 0'
      )

  def build(self, vocab: Vocab) -> Method:
    process = uniform(vocab.size, self.schedule, vocab.mask_id)
    evaluator = Nelbo(process, rate_bound)
    window = gaussian_argmax(process.vocab_size, self.gamma_min, self.gamma_max)
    duality = Duality(window, vocab.size, vocab.mask_id)
    first, last = self.log10_temperature
    curriculum = Curriculum(
      duality,
      evaluator,
      self.curriculum_steps,
      self.anneal_from,
      (first, last),
    )
    return Method(
      process=process,
      objective=curriculum if self.curriculum_steps else evaluator,
      evaluator=evaluator,
      head=typed(Cavity),
      sampler=diffusion_sampler(process),
      causal=False,
      num_states=vocab.size,
    )
