"""Generalized interpolating discrete diffusion (GIDD, von Rütte et al. 2025).

Noise is a mixture of masks and uniform tokens whose proportions change with
time. Training uses bounded weights; evaluation reports the variational bound.
"""

import dataclasses
from typing import ClassVar, Literal

from textdiffusion.core.types import Cavity, UserError, Vocab
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs, mask_of
from textdiffusion.model import RawHead
from textdiffusion.objectives.nelbo import Nelbo, rank_one_bound
from textdiffusion.objectives.reweighted import Reweighted
from textdiffusion.processes.rank_one import Hybrid, hybrid
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler


@dataclasses.dataclass(frozen=True)
class GIDD:
  """Options of GIDD.

  Attributes:
    p_uniform: largest probability of uniform noise over time, see `Hybrid`; 0
      is masked diffusion.
    gamma: shape of the mixture over time, see `Hybrid`.
    weight: weights of the training loss. 'bound' trains on the bound itself;
      the others are surrogates, see `Reweighted`.
    least_weight: smallest weight of a surrogate.
    most_weight: largest weight of a surrogate.
  """

  p_uniform: float = 0.1
  gamma: float = 1.0
  weight: Literal['bound', 'clipped', 'dynamic', 'released'] = 'dynamic'
  least_weight: float = 0.0
  most_weight: float = 2.0

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_fields(self)
    if not 0 <= self.least_weight < self.most_weight:
      raise UserError(
        f'method.least_weight={self.least_weight}, method.most_weight='
        f'{self.most_weight}: need 0 <= least_weight < most_weight'
      )

  def build(self, vocab: Vocab) -> Method:
    path = Hybrid(self.p_uniform, self.gamma)
    process = hybrid(vocab.size, mask_of(vocab), path)
    evaluator = Nelbo(rank_one_bound)
    objective = evaluator
    if self.weight != 'bound':
      surrogate = Reweighted(self.weight, self.least_weight, self.most_weight)
      objective = Nelbo(surrogate, estimand='surrogate')
    return Method(
      process=process,
      objective=objective,
      evaluator=evaluator,
      head=RawHead(Cavity),
      sampler=self.default_sampler,
      needs=Needs(vocab.size),
    )
