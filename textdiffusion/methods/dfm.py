"""Discrete flow matching (Gat et al. 2024) from a mask or a uniform source.

The network outputs the posterior p(x0 | x_t), and is trained by cross-entropy
or by the generalised KL. The default sampler draws from the reverse bridge of
the same noise, with the posterior converted to a cavity, which makes the bridge
exact. The evaluator bounds -log p of that sampler.
"""

import dataclasses
from typing import ClassVar, Literal

from textdiffusion.core.types import UserError, Vocab
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs
from textdiffusion.objectives.base import Objective
from textdiffusion.objectives.flow_matching import (
  FlowMatching,
  cross_entropy,
  flow_bound,
)
from textdiffusion.objectives.nelbo import Nelbo, masked_bound, rank_one_bound
from textdiffusion.processes.bridge import restricted_posterior
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class DFM:
  """Options of discrete flow matching.

  Attributes:
    source: distribution at t = 1: all masks, or uniform tokens.
    schedule: noise schedule; its alpha is kappa in the paper.
    loss: training loss. The posterior minimises both.
    prompt_rate: fraction of rows that are trained with a given prefix, see
      `FlowMatching`.
  """

  source: Literal['mask', 'uniform'] = 'mask'
  schedule: Schedule = Linear()
  loss: Literal['cross_entropy', 'generalised_kl'] = 'cross_entropy'
  prompt_rate: float = 0.0

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_fields(self, prompt_rate='[0, 1]')

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
      head=restricted_posterior,
      sampler=self.default_sampler,
      needs=Needs(vocab.size),
    )
