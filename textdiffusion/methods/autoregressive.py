"""The autoregressive baseline: the same transformer with causal attention."""

import dataclasses
from typing import ClassVar

from textdiffusion.core import types
from textdiffusion.core.types import UserError, Vocab
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import RawHead
from textdiffusion.nn.network import Causal
from textdiffusion.objectives import autoregressive
from textdiffusion.samplers.autoregressive import LeftToRight
from textdiffusion.samplers.base import Sampler, with_special_ids


@dataclasses.dataclass(frozen=True)
class Autoregressive:
  """The autoregressive language model. It has no options."""

  default_sampler: ClassVar[Sampler] = LeftToRight()

  def build(self, vocab: Vocab) -> Method:
    if vocab.bos_id is None:
      raise UserError(
        'the tokenizer has no bos token, which autoregression needs: add '
        "'bos' to data.tokenizer.specials"
      )
    objective = autoregressive.Autoregressive(vocab.bos_id)
    return Method(
      process=None,
      objective=objective,
      evaluator=objective,
      head=RawHead(types.Causal),
      sampler=with_special_ids(self.default_sampler, vocab),
      needs=Needs(vocab.size),
      structure=Causal(),
    )
