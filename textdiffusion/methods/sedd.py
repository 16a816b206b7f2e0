"""Score entropy discrete diffusion (SEDD, Lou et al. 2024)."""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp

from textdiffusion.core.types import UserError, Vocab
from textdiffusion.methods.method import Method, Needs
from textdiffusion.objectives.nelbo import Nelbo
from textdiffusion.objectives.score_entropy import LogScoreHead, score_entropy
from textdiffusion.processes.rank_one import absorbing, uniform
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class SEDD:
  """Options of SEDD.

  Attributes:
    graph: what noise turns a token into: the mask, or any token.
    schedule: noise schedule, log-linear or `Geometric`. Some signal must be
      left at t = 1, because the ratios of pure noise carry no information; the
      bound counts it as its prior term.
    scale_by_sigma: whether the head of the absorbing graph takes off the log of
      the noise level, see `LogScoreHead`.
  """

  graph: Literal['absorbing', 'uniform'] = 'absorbing'
  schedule: Schedule = Linear(1e-3)
  scale_by_sigma: bool = True

  default_sampler: ClassVar[Sampler] = Ancestral()

  def build(self, vocab: Vocab) -> Method:
    if jnp.isneginf(self.schedule(1.0).log_alpha).any():
      raise UserError(
        f'method.schedule={self.schedule} leaves no signal at t = 1, so that '
        'the ratios there carry no information: keep some, as with '
        'Linear(eps=1e-3)'
      )
    if self.graph == 'uniform':
      process = uniform(vocab.size, self.schedule, vocab.mask_id)
    elif vocab.mask_id is None:
      raise UserError(
        'the tokenizer has no mask token, which the absorbing graph needs: add '
        "'mask' to data.tokenizer.specials, or set method.graph=uniform"
      )
    else:
      process = absorbing(vocab.size, vocab.mask_id, self.schedule)
    objective = Nelbo(score_entropy)
    return Method(
      process=process,
      objective=objective,
      evaluator=objective,
      head=LogScoreHead(self.scale_by_sigma and process.is_absorbing),
      sampler=self.default_sampler,
      needs=Needs(vocab.size),
    )
