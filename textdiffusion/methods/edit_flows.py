"""Edit Flows (Havasi et al. 2025): text generation by insertions, deletions and
substitutions."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Float

from textdiffusion.core.numerics import match_ranks
from textdiffusion.core.types import Array, Edits, Time, UserError, Vocab, X
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.flexmdm import require_ends
from textdiffusion.methods.method import Method, Needs
from textdiffusion.objectives.edit import EditNelbo
from textdiffusion.processes.edit import EditPath
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.edit import EditSteps
from textdiffusion.schedules.noise import Linear, Schedule


@dataclasses.dataclass(frozen=True)
class EditFlows:
  """Options of Edit Flows.

  Attributes:
    schedule: schedule of the times of the edits.
    source_length: number of uniformly random tokens that a text is edited from.
      0 starts from an empty text, so that all edits are insertions.
  """

  schedule: Schedule = Linear()
  source_length: int = 0

  default_sampler: ClassVar[Sampler] = EditSteps()

  def __post_init__(self) -> None:
    check_fields(self, source_length='[0, inf)')

  def build(self, vocab: Vocab) -> Method:
    if vocab.pad_id is None:
      raise UserError(
        'the tokenizer has no pad token, which edit flows need: add '
        "'pad' to data.tokenizer.specials"
      )
    require_ends('schedule', self.schedule, noise_at_1=True)
    process = EditPath(
      self.schedule,
      vocab.size,
      vocab.pad_id,
      vocab.mask_id,
      self.source_length,
    )
    objective = EditNelbo()
    return Method(
      process=process,
      objective=objective,
      evaluator=objective,
      head=edits,
      sampler=self.default_sampler,
      needs=Needs(vocab.size, 2 * vocab.size + 3, whole_rows=True),
    )


def edits(
  process: EditPath, raw: Float[Array, '... L C'], x: X, t: Time
) -> Edits:
  """Splits raw outputs [B, L, 2 K + 3] into three log rates and two logits.

  Args:
    process: an `EditPath`.
    raw: outputs of the network.
    x: unused.
    t: times that broadcast against [B, L].

  Returns:
    The head. A rate is exp(output) * (1 - alpha), as in `flexmdm.growth`.
  """
  raw, log_noise = match_ranks(raw, process.schedule(t).log_1m_alpha)
  rates, logits = raw[..., :3] + log_noise, raw[..., 3:]
  insert, substitute = jnp.split(logits, 2, axis=-1)
  return Edits(rates[..., 0], rates[..., 1], rates[..., 2], insert, substitute)
