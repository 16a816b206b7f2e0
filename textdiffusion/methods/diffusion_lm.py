"""Diffusion-LM: Gaussian noise on learnt embeddings (Li et al. 2022)."""

import dataclasses
from typing import Literal

from textdiffusion.core.types import (
  X0,
  Eps,
  Features,
  UserError,
  Velocity,
  Vocab,
  typed,
)
from textdiffusion.methods.method import Method
from textdiffusion.objectives.end_to_end import EndToEnd, Weights
from textdiffusion.objectives.latent_bound import LatentBound
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.sampling.latent import latent_sampler
from textdiffusion.schedules.variances import (
  SquareRoot,
  Variances,
  tabulated,
)

HEADS = {'x0': X0, 'eps': Eps, 'velocity': Velocity}


@dataclasses.dataclass(frozen=True)
class DiffusionLM:
  """schedule: of alpha on num_steps steps, T; the first step is also the noise
  of the embeddings, so T matters. size: D. predict: what the network says.
  loss: the weighted terms of `EndToEnd`, or the bound that is reported.
  weights: of the terms. std: of embeddings at first. rounding: see `Features`.
  """

  schedule: Variances = SquareRoot()
  num_steps: int = 2000
  size: int = 16
  predict: Literal['x0', 'eps', 'velocity'] = 'x0'
  loss: Literal['simple', 'bound'] = 'simple'
  weights: Weights = Weights()
  std: float = 1.0
  rounding: Literal['dot', 'distance'] = 'dot'

  def __post_init__(self) -> None:
    for name, least in (('num_steps', 2), ('size', 1)):
      if getattr(self, name) < least:
        raise UserError(
          f'method.{name}={getattr(self, name)}: must be at least {least}'
        )
    if self.std <= 0:
      raise UserError(f'method.std={self.std}: must be positive')

  def build(self, vocab: Vocab) -> Method:
    process = VariancePreserving(tabulated(self.schedule, self.num_steps))
    return self.wired(vocab, process)

  def wired(
    self,
    vocab: Vocab,
    process: VariancePreserving,
    self_condition: float | None = None,
  ) -> Method:
    """The method of any noise. self_condition: see `EndToEnd`."""
    is_shown = self_condition is not None
    bound = LatentBound(process, self.num_steps, is_shown)
    simple = EndToEnd(process, self.num_steps, self.weights, self_condition)
    return Method(
      process=process,
      objective=simple if self.loss == 'simple' else bound,
      evaluator=bound,
      head=typed(HEADS[self.predict]),
      sampler=latent_sampler(process, self.num_steps, is_shown),
      causal=False,
      num_states=vocab.size,
      features=Features(self.size, self.std, self.rounding, is_shown),
    )
