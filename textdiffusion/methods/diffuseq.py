"""DiffuSeq: a source and its noised target in one sequence (Gong et al. 2023).

Partial noising is not of the method: rows that say what is given
(`data.rows=joined`) anchor it for every method here.
"""

import dataclasses
from typing import Literal

from textdiffusion.core.types import UserError, Vocab
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.method import Method


@dataclasses.dataclass(frozen=True)
class DiffuSeq(DiffusionLM):
  """As `DiffusionLM`, wider.

  source: noisy is as released: training shows the source with the noise of the
  first step, which sampling does not. counted: all is as released: losses of
  the source count too, and the paper's do not.
  """

  size: int = 128
  source: Literal['clean', 'noisy'] = 'clean'
  counted: Literal['target', 'all'] = 'target'

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.source == 'noisy' and self.loss != 'simple':
      raise UserError(
        f'method.source=noisy with method.loss={self.loss}: a noisy source is '
        'of the released loss; set method.loss=simple or method.source=clean'
      )

  def build(self, vocab: Vocab) -> Method:
    made = super().build(vocab)
    is_noisy = self.source == 'noisy'
    objective = made.objective
    if is_noisy:
      objective = dataclasses.replace(objective, noisy_source=True)  # ty: ignore[invalid-argument-type]
    return made._replace(
      objective=objective,
      anchors=not is_noisy,
      counts_given=self.counted == 'all',
    )
