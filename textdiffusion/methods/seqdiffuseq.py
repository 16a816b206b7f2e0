"""SeqDiffuSeq: an encoder, self-conditioning, noise that follows the loss of
each position (Yuan et al. 2024)."""

import dataclasses

import jax.numpy as jnp

from textdiffusion.core.types import (
  Array,
  Batch,
  Facts,
  UserError,
  Vocab,
)
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.method import Method, check_chance
from textdiffusion.processes.variance_preserving import Following
from textdiffusion.schedules.adaptive import (
  Adaptive,
  PerPosition,
  Refits,
)
from textdiffusion.schedules.variances import tabulated


@dataclasses.dataclass(frozen=True)
class SeqDiffuSeq(DiffusionLM):
  """As `DiffusionLM`, of the target alone: `data.rows=separate`.

  self_condition: the chance that the network is shown its own estimate in
  training; None never shows one. adaptive: whether the schedule of each of
  `length` positions follows its loss, measured in `bins` of the T steps and
  fitted every `refit_every` training steps, the first time after `refit_from`.
  keep_first: position 0 keeps its schedule, as where it is always the same
  token, which official rows begin with.
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
        f'method.times={self.times} with method.adaptive=True: one of them '
        'follows the loss; set method.times=uniform'
      )
    if self.adaptive and self.loss != 'simple':
      raise UserError(
        f'method.loss={self.loss} with method.adaptive=True: the schedule '
        'follows the squared error; set method.loss=simple or '
        'method.adaptive=False'
      )
    for name in ('length', 'bins', 'refit_every'):
      if getattr(self, name) < 1:
        raise UserError(
          f'method.{name}={getattr(self, name)}: must be at least 1'
        )
    check_chance(self.self_condition)
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
      return self.wired(vocab, Following(table), self.self_condition)

    refits = Refits(
      start, self.bins, self.refit_every, self.refit_from, self.keep_first
    )
    process = Following(PerPosition(start))
    method = self.wired(vocab, process, self.self_condition)
    return method._replace(
      state=LossByPosition(refits, vocab.pad_id),
      needs=method.needs._replace(length=self.length),
    )


@dataclasses.dataclass(frozen=True)
class LossByPosition:
  """State of a schedule for each position, which follows the squared error.

  Attributes:
    refits: when and how the schedule is fitted.
    pad_id: padding, whose errors do not count; None where there is none.
  """

  refits: Refits
  pad_id: int | None

  def init(self, facts: Facts) -> Adaptive:
    return self.refits.init()

  def before_step(self, state: Adaptive, facts: Facts, step: Array) -> Adaptive:
    return self.refits.before_step(state, step)

  def after_step(
    self, state: Adaptive, batch: Batch, terms: dict[str, Array]
  ) -> Adaptive:
    is_token = batch.is_counted & (batch.ids != self.pad_id)
    errors = terms['mse'] + terms['first']
    return self.refits.observe(state, batch.u, errors, is_token)
