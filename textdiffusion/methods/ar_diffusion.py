"""AR-Diffusion: each position has a time of its own, left ones first (Wu et al.
2023)."""

import dataclasses

from textdiffusion.core.types import Array, UserError, Vocab
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.method import Method
from textdiffusion.nn.wrappers import PerTokenTime
from textdiffusion.sampling.latent import latent_sampler
from textdiffusion.sampling.settings import SampleConfig
from textdiffusion.schedules.times import walk


@dataclasses.dataclass(frozen=True)
class ARDiffusion(DiffusionLM):
  """As `DiffusionLM`, at uniform times, one for each token."""

  size: int = 128

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.times != 'uniform':
      raise UserError(
        f'method.times={self.times}: of AR-Diffusion it must be uniform'
      )

  def build(self, vocab: Vocab) -> Method:
    made = super().build(vocab)
    size = self.num_steps

    def grid(config: SampleConfig, length: int) -> Array:
      """A walk of the moving point, in equal parts of its way."""
      config.times(size)  # raises UserError for wrong steps
      return walk(config.times(), length, size)

    apart = lambda loss: dataclasses.replace(loss, multi_level=True)
    return made._replace(
      objective=apart(made.objective),
      evaluator=apart(made.evaluator),
      sampler=latent_sampler(made.process, size, grid=grid),
      needs=made.needs._replace(wrap=PerTokenTime),
    )
