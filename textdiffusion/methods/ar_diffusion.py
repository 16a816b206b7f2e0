"""AR-Diffusion: each position has a time of its own, left ones first (Wu et al.
2023)."""

import dataclasses

from textdiffusion.core.types import Array, UserError, Vocab
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.method import Method
from textdiffusion.sampling.latent import latent_sampler
from textdiffusion.sampling.settings import SampleConfig
from textdiffusion.schedules.times import multi_level, place


@dataclasses.dataclass(frozen=True)
class ARDiffusion(DiffusionLM):
  """As `DiffusionLM`, of the simple loss; the network is told every time.

  It reports no bound: that of `DiffusionLM` is of one time for all.
  """

  size: int = 128

  def __post_init__(self) -> None:
    super().__post_init__()
    for name, only in (('loss', 'simple'), ('times', 'uniform')):
      if getattr(self, name) != only:
        raise UserError(
          f'method.{name}={getattr(self, name)}: of AR-Diffusion it must be '
          f'{only}'
        )

  def build(self, vocab: Vocab) -> Method:
    made = super().build(vocab)
    size = self.num_steps

    def grid(config: SampleConfig, length: int) -> Array:
      """A walk of the moving point, in equal parts of its way."""
      config.times(size)  # says what is wrong with its steps
      t = multi_level(config.times(), length, size)
      return place(t, size) / size

    objective = dataclasses.replace(made.objective, multi_level=True)  # ty: ignore[invalid-argument-type]
    return made._replace(
      objective=objective,
      evaluator=objective,
      sampler=latent_sampler(made.process, size, grid=grid),
      wrap=lambda denoiser: denoiser._replace(tells_each=True),
    )
