"""Discrete flow matching (Gat et al. 2024), mask and uniform source.

The network gives the posterior. It is trained by cross-entropy or by the
generalised KL; the reverse bridge of the same noise, exact through the cavity,
generates what the evaluator bounds.
"""

import dataclasses
from typing import ClassVar, Literal

from textdiffusion.core.types import UserError, Vocab
from textdiffusion.methods.method import Method, Needs
from textdiffusion.objectives.base import Objective
from textdiffusion.objectives.flow_matching import (
  FlowMatching,
  cross_entropy,
  flow_bound,
)
from textdiffusion.objectives.nelbo import Nelbo, masked_bound, rank_one_bound
from textdiffusion.processes.bridge import possible
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class DFM:
  """source: what stands at t = 1. schedule: its alpha is the paper's kappa.

  loss: both have the posterior as their optimum. prompt_rate: the share of
  rows trained with a given prefix, see `FlowMatching`.
  """

  source: Literal['mask', 'uniform'] = 'mask'
  schedule: Schedule = Linear()
  loss: Literal['cross_entropy', 'generalised_kl'] = 'cross_entropy'
  prompt_rate: float = 0.0

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    for name, known in (
      ('source', ('mask', 'uniform')),
      ('loss', ('cross_entropy', 'generalised_kl')),
    ):
      if getattr(self, name) not in known:
        raise UserError(
          f'method.{name}={getattr(self, name)!r}: must be one of '
          + ', '.join(known)
        )
    if not 0 <= self.prompt_rate <= 1:
      raise UserError(
        f'method.prompt_rate={self.prompt_rate}: must be in [0, 1]'
      )

  def build(self, vocab: Vocab) -> Method:
    if self.source == 'uniform':
      process = uniform(vocab.size, self.schedule, vocab.mask_id)
      evaluator, bound = Nelbo(rank_one_bound), flow_bound
    elif vocab.mask_id is None:
      raise UserError(
        'the tokenizer has no mask token, which a mask source needs: add '
        "'mask' to data.tokenizer.specials, or set method.source=uniform"
      )
    else:
      process = absorbing(vocab.size, vocab.mask_id, self.schedule)
      evaluator, bound = Nelbo(masked_bound), masked_bound
    is_kl = self.loss == 'generalised_kl'
    objective: Objective = FlowMatching(
      bound if is_kl else cross_entropy, self.prompt_rate
    )
    if is_kl and not self.prompt_rate:
      objective = Nelbo(bound)
    return Method(
      process=process,
      objective=objective,
      evaluator=evaluator,
      head=possible,
      sampler=self.default_sampler,
      needs=Needs(vocab.size),
    )
