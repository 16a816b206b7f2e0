"""SeqDiffuSeq (Yuan et al. 2024): sequence-to-sequence diffusion on embeddings.

It has an encoder for the source, self-conditioning, and a noise schedule per
position that is fitted to the loss at that position.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.types import (
  Array,
  Batch,
  Facts,
  UserError,
  Vocab,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.method import Method
from textdiffusion.processes.variance_preserving import Fitted
from textdiffusion.schedules.adaptive import (
  Adaptive,
  PerPosition,
  Refits,
)
from textdiffusion.schedules.variances import tabulated


@dataclasses.dataclass(frozen=True)
class SeqDiffuSeq(DiffusionLM):
  """Options of SeqDiffuSeq: those of `DiffusionLM` for the target alone.

  Use it with `data.rows=separate`.

  Attributes:
    size: D, numbers in an embedding.
    std: standard deviation of the embeddings at initialisation.
    self_condition: probability that a training step feeds the network its own
      estimate of x0; None turns self-conditioning off.
    adaptive: whether each position has a schedule that is fitted to its loss.
    length: number of positions with a schedule, the tokens of a row.
    bins: number of bins of the T steps in which the loss is averaged.
    refit_every: training steps between fits of the schedules.
    refit_from: training step of the first fit.
    keep_first: if True, position 0 keeps its initial schedule. Use it where
      every row starts with the same token, as in the official data.
  """

  size: int = 128
  std: float = 0.02
  self_condition: float | None = 0.5
  adaptive: bool = True
  length: int = 64
  bins: int = 100
  refit_every: int = 20_000
  refit_from: int = 60_000
  keep_first: bool = False

  def __post_init__(self) -> None:
    super().__post_init__()
    if self.adaptive and self.times != 'uniform':
      raise UserError(
        f'method.times={self.times} with method.adaptive=True: only one of '
        'them may follow the loss; set method.times=uniform'
      )
    if self.adaptive and self.loss != 'simple':
      raise UserError(
        f'method.loss={self.loss} with method.adaptive=True: the schedule '
        'follows the squared error; set method.loss=simple or '
        'method.adaptive=False'
      )
    check_fields(
      self,
      self_condition='[0, 1]',
      length='[1, inf)',
      bins='[1, inf)',
      refit_every='[1, inf)',
    )
    if self.adaptive and (self.num_steps % self.bins or self.bins < 2):
      raise UserError(
        f'method.bins={self.bins}: must be at least 2 and divide '
        f'method.num_steps={self.num_steps}'
      )

  def build(self, vocab: Vocab) -> Method:
    table = tabulated(self.schedule, self.num_steps)
    alpha = jnp.exp(table.log_alpha[1:])
    start = jnp.broadcast_to(alpha[:, None], (self.num_steps, self.length))
    if not self.adaptive:
      return self.wired(vocab, Fitted(table), self.self_condition)

    refits = Refits(
      start, self.bins, self.refit_every, self.refit_from, self.keep_first
    )
    process = Fitted(PerPosition(start))
    method = self.wired(vocab, process, self.self_condition)
    return method._replace(
      state=LossByPosition(refits, vocab.pad_id),
      needs=method.needs._replace(length=self.length),
    )


@dataclasses.dataclass(frozen=True)
class LossByPosition:
  """Method state of SeqDiffuSeq: a schedule per position, fitted to its error.

  Attributes:
    refits: rule for when and how the schedules are fitted.
    pad_id: id of the padding, whose errors do not count; None for no padding.
  """

  refits: Refits
  pad_id: int | None

  def init(self, facts: Facts) -> Adaptive:
    return self.refits.init()

  def before_step(
    self, state: Adaptive, facts: Facts, step: Int[Array, '']
  ) -> Adaptive:
    return self.refits.before_step(state, step)

  def after_step(
    self, state: Adaptive, batch: Batch, terms: dict[str, Float[Array, 'B L']]
  ) -> Adaptive:
    is_token = batch.is_counted & (batch.ids != self.pad_id)
    errors = terms['mse'] + terms['first']
    return self.refits.observe(state, batch.u, errors, is_token)
