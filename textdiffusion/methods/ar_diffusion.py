"""AR-Diffusion (Wu et al. 2023): every position has its own diffusion time.

Positions on the left are denoised first.
"""

import dataclasses

from textdiffusion.core.types import UserError, Vocab
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.method import Method
from textdiffusion.nn.wrappers import PerTokenTime
from textdiffusion.samplers.latent import GaussianAncestral


@dataclasses.dataclass(frozen=True)
class ARDiffusion(DiffusionLM):
  """Options of AR-Diffusion: those of `DiffusionLM`, with one time per token.

  Attributes:
    size: D, numbers in an embedding.
    times: only 'uniform' is allowed.
  """

  size: int = 128

  default_sampler = GaussianAncestral(multi_level=True)

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.times != 'uniform':
      raise UserError(
        f'method.times={self.times}: must be uniform for AR-Diffusion; set '
        'method.times=uniform'
      )

  def build(self, vocab: Vocab) -> Method:
    base = super().build(vocab)
    per_token = lambda loss: dataclasses.replace(loss, multi_level=True)
    return base._replace(
      objective=per_token(base.objective),
      evaluator=per_token(base.evaluator),
      needs=base.needs._replace(wrap=PerTokenTime),
    )
