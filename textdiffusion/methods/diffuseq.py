"""DiffuSeq (Gong et al. 2023a): source and noised target in one sequence.

The second version (2023b) adds noise around a learnt vector.

Partial noising needs nothing from the method: with `data.rows=joined` each row
marks its source tokens as given, and every method keeps given tokens clean.
"""

import dataclasses
from typing import Literal

import jax

from textdiffusion.core.types import Key, PyTree, UserError, Vocab
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.method import Given, Method
from textdiffusion.nn.network import Network
from textdiffusion.nn.wrappers import Centred, WithParams
from textdiffusion.objectives.base import Objective
from textdiffusion.objectives.end_to_end import EndToEnd


@dataclasses.dataclass(frozen=True)
class DiffuSeq(DiffusionLM):
  """Options of DiffuSeq: those of `DiffusionLM`, and how the source is treated.

  Attributes:
    size: D, numbers in an embedding.
    source: what the network takes at source tokens in training: their
      embeddings, or (as in the released code) the embeddings with the noise of
      the first step. Sampling always uses the embeddings.
    counted: which tokens have a loss: those of the target (the paper), or all
      (the released code).
    absorb: None is the first version. A number is the second version: noise
      has a learnt mean m, and in training m replaces a position with a
      probability of `absorb` times the standard deviation of the noise (0.5 in
      the released commands).
  """

  size: int = 128
  source: Literal['clean', 'noisy'] = 'clean'
  counted: Literal['target', 'all'] = 'target'
  absorb: float | None = None

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.source == 'noisy' and self.loss != 'simple':
      raise UserError(
        f'method.source=noisy with method.loss={self.loss}: a noisy source '
        'needs the released loss; set method.loss=simple or '
        'method.source=clean'
      )
    if self.absorb is None:
      return
    check_fields(self, absorb='[0, 1]')
    for name, required in (('loss', 'simple'), ('predict', 'x0')):
      if getattr(self, name) != required:
        raise UserError(
          f'method.{name}={getattr(self, name)} with method.absorb='
          f'{self.absorb}: the second version has method.{name}={required}'
        )

  def build(self, vocab: Vocab) -> Method:
    base = super().build(vocab)
    is_noisy = self.source == 'noisy'
    objective: Objective = base.objective
    if isinstance(objective, EndToEnd):
      objective = dataclasses.replace(
        objective, noisy_source=is_noisy, absorb=self.absorb or 0.0
      )
    given = Given(is_clean=not is_noisy, is_counted=self.counted == 'all')
    needs = base.needs._replace(given=given)

    def init(key: Key) -> PyTree:
      return {'mean': jax.random.normal(key, (self.size,)) / self.size**0.5}

    def centred(network: Network) -> Network:
      return Centred(WithParams(network, init))

    if self.absorb is not None:
      needs = needs._replace(wrap=centred)
    return base._replace(objective=objective, needs=needs)
