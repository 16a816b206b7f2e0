"""AR-Diffusion: each position has a time of its own, left ones first (Wu et al.
2023)."""

import dataclasses

from textdiffusion.core.types import UserError, Vocab
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.method import Method
from textdiffusion.nn.wrappers import PerTokenTime
from textdiffusion.samplers.latent import GaussianAncestral


@dataclasses.dataclass(frozen=True)
class ARDiffusion(DiffusionLM):
  """As `DiffusionLM`, at uniform times, one for each token."""

  size: int = 128

  default_sampler = GaussianAncestral(multi_level=True)

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.times != 'uniform':
      raise UserError(
        f'method.times={self.times}: of AR-Diffusion it must be uniform'
      )

  def build(self, vocab: Vocab) -> Method:
    made = super().build(vocab)
    apart = lambda loss: dataclasses.replace(loss, multi_level=True)
    return made._replace(
      objective=apart(made.objective),
      evaluator=apart(made.evaluator),
      needs=made.needs._replace(wrap=PerTokenTime),
    )
