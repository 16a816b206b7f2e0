"""`constrain`: a model all of whose samples on a canvas keep constraints."""

from collections.abc import Sequence

import numpy as np

from textdiffusion.constraints.draws import Acceptor
from textdiffusion.constraints.kinds import Constraint, combined
from textdiffusion.core.types import UserError
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.guidance import Constrained
from textdiffusion.model import Model
from textdiffusion.samplers.base import Canvas


def constrain(
  model: Model,
  constraints: Sequence[Constraint],
  tokenizer: Tokenizer,
  canvas: Canvas,
) -> Constrained:
  """Returns a model whose samples on a canvas keep all constraints.

  Args:
    model: of noise on tokens; guidance goes inside.
    constraints: of `td.constraints`.
    tokenizer: of the network.
    canvas: what will be filled in. All its rows have the same given tokens.

  Raises:
    UserError: no row keeps the constraints, or one of them cannot be read.
  """
  return Constrained(model, acceptor(constraints, tokenizer, canvas))


def acceptor(
  constraints: Sequence[Constraint], tokenizer: Tokenizer, canvas: Canvas
) -> Acceptor:
  """Returns the acceptor of all constraints; arguments as in `constrain`."""
  is_given, ids = np.asarray(canvas.is_given), np.asarray(canvas.ids)
  tokens = np.where(is_given, ids, -1)
  if (tokens != tokens[:1]).any():
    raise UserError(
      'rows under constraints need the same given tokens: fill in those that '
      'differ one after another'
    )
  whole, labels = combined(constraints, tokenizer, is_given[0], ids[0])
  return Acceptor.of(whole, labels[None])
