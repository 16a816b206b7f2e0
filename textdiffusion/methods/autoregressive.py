"""The autoregressive baseline: the same transformer, causal, left to right."""

import dataclasses

from textdiffusion.core import types
from textdiffusion.core.types import UserError, Vocab
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import RawHead
from textdiffusion.nn.network import Causal
from textdiffusion.objectives import autoregressive
from textdiffusion.sampling.generate import autoregressive_sampler


@dataclasses.dataclass(frozen=True)
class Autoregressive:
  """Nothing to choose."""

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
      sampler=autoregressive_sampler(vocab),
      needs=Needs(vocab.size),
      structure=Causal(),
    )
