"""DiffuSeq: a source and its noised target in one sequence (Gong et al. 2023a),
and its second version (2023b), whose noise is around a learnt vector.

Partial noising is not of the method: rows that say what is given
(`data.rows=joined`) anchor it for every method here.
"""

import dataclasses
from typing import Any, Literal

import jax

from textdiffusion.core.types import Key, PyTree, UserError, Vocab
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.method import Given, Method
from textdiffusion.nn.network import Network
from textdiffusion.nn.wrappers import Centred, WithParams
from textdiffusion.objectives.end_to_end import EndToEnd


@dataclasses.dataclass(frozen=True)
class DiffuSeq(DiffusionLM):
  """As `DiffusionLM`, wider.

  source: noisy is as released: training shows the source with the noise of the
  first step, which sampling does not. counted: all is as released: losses of
  the source count too, and the paper's do not.
  absorb: of the second version. Noise has a learnt mean m, and training shows m
  in place of a position with a chance of `absorb` times the noise's standard
  deviation: 0.5 in the released commands. None is the first version.
  """

  size: int = 128
  source: Literal['clean', 'noisy'] = 'clean'
  counted: Literal['target', 'all'] = 'target'
  absorb: float | None = None

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.source == 'noisy' and self.loss != 'simple':
      raise UserError(
        f'method.source=noisy with method.loss={self.loss}: a noisy source is '
        'of the released loss; set method.loss=simple or method.source=clean'
      )
    if self.absorb is None:
      return
    if not 0 <= self.absorb <= 1:
      raise UserError(f'method.absorb={self.absorb}: must be in [0, 1]')
    for name, needed in (('loss', 'simple'), ('predict', 'x0')):
      if getattr(self, name) != needed:
        raise UserError(
          f'method.{name}={getattr(self, name)} with method.absorb='
          f'{self.absorb}: the second version has method.{name}={needed}'
        )

  def build(self, vocab: Vocab) -> Method:
    base = super().build(vocab)
    is_noisy = self.source == 'noisy'
    objective: Any = base.objective
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
