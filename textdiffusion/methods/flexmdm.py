"""Flexible masked diffusion (FlexMDM, Kim et al. 2025): MDLM with insertions.

A text grows by inserted masks, which are unmasked in any order, so the model
also generates the length.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Float

from textdiffusion.core.numerics import match_ranks
from textdiffusion.core.types import (
  Array,
  Growth,
  Time,
  UserError,
  Vocab,
  X,
)
from textdiffusion.methods.method import Method, Needs
from textdiffusion.objectives.edit import EditNelbo
from textdiffusion.processes.edit import MaskedInsertion
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.edit import InsertAndUnmask
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class FlexMDM:
  """Options of FlexMDM.

  The bound has no term for noise at t = 0 or for signal at t = 1. So both
  schedules must have alpha = 1 at t = 0, and `insert` alpha = 0 at t = 1.

  Attributes:
    insert: schedule of the times at which tokens are inserted as masks.
    unmask: schedule of the times at which inserted masks are unmasked.
  """

  insert: Schedule = Linear()
  unmask: Schedule = Linear()

  default_sampler: ClassVar[Sampler] = InsertAndUnmask()

  def build(self, vocab: Vocab) -> Method:
    for name, index in (('mask', vocab.mask_id), ('pad', vocab.pad_id)):
      if index is None:
        raise UserError(
          f'the tokenizer has no {name} token, which FlexMDM needs: add '
          f"'{name}' to data.tokenizer.specials"
        )
    assert vocab.mask_id is not None and vocab.pad_id is not None
    require_ends('insert', self.insert, noise_at_1=True)
    require_ends('unmask', self.unmask, noise_at_1=False)
    process = MaskedInsertion(
      self.insert, self.unmask, vocab.size, vocab.mask_id, vocab.pad_id
    )
    objective = EditNelbo()
    return Method(
      process=process,
      objective=objective,
      evaluator=objective,
      head=growth,
      sampler=self.default_sampler,
      needs=Needs(vocab.size, vocab.size + 1, whole_rows=True),
    )


def growth(
  process: MaskedInsertion, raw: Float[Array, '... L C'], x: X, t: Time
) -> Growth:
  """Splits raw outputs [B, L, K + 1] into token logits and log expected counts.

  Args:
    process: a `MaskedInsertion`.
    raw: outputs of the network.
    x: unused.
    t: times that broadcast against [B, L].

  Returns:
    The head. A count is exp(output) * (1 - alpha): every count contains the
    probability that a token is missing, so the loss is finite near t = 0
    whatever the output.
  """
  raw, log_noise = match_ranks(raw, process.insert(t).log_1m_alpha)
  return Growth(raw[..., :-1], raw[..., -1] + log_noise[..., 0])


def require_ends(name: str, schedule: Schedule, noise_at_1: bool) -> None:
  """Checks the ends of a schedule.

  Args:
    name: the field, for the message.
    schedule: must have no noise at t = 0.
    noise_at_1: whether it must also have no signal at t = 1.

  Raises:
    UserError: the schedule has noise at t = 0 or signal at t = 1.
  """
  if not jnp.isneginf(schedule(0.0).log_1m_alpha).all():
    raise UserError(f'method.{name}={schedule}: must have no noise at t=0')
  if noise_at_1 and jnp.exp(schedule(1.0).log_alpha).max() > 1e-6:
    raise UserError(
      f'method.{name}={schedule}: must leave nothing at t=1 (eps=0)'
    )
