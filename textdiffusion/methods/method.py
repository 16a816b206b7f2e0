"""What a method is made of."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from textdiffusion.core.types import Array, Head, Objective, Vocab
from textdiffusion.sampling.generate import Sampler


class Method(NamedTuple):
  """A wiring: what training, evaluation and sampling need, and no more.

  process: the forward process; None for autoregression.
  objective: what training minimises.
  evaluator: the objective whose mean is reported, a bound on -log p.
  head: raw network output -> the typed head it is trained as.
  sampler: (model, key, canvas, config) -> what the sampling loop runs.
  causal: whether the network must be causal (True) or must not be (False).
  num_states: K, the width of the network's input and output.
  """

  process: Any
  objective: Objective
  evaluator: Objective
  head: Callable[[Array], Head]
  sampler: Sampler
  causal: bool
  num_states: int


class MethodConfig(Protocol):
  """A frozen dataclass of choices, one class a method."""

  def build(self, vocab: Vocab) -> Method:
    """Raises UserError where the tokenizer lacks what the method needs."""
    ...
