"""The contract of an objective: a loss of one or several models."""

from typing import Literal, NamedTuple, Protocol

from textdiffusion.core.types import Array, Batch, Key
from textdiffusion.model import Model

Estimand = Literal['nelbo', 'surrogate']


class Models(NamedTuple):
  """The models that a loss depends on.

  No gradient goes to the teacher or the reference, and checkpoints hold no
  second copy of them.

  Attributes:
    student: the model that is trained.
    teacher: a model to distil, or None.
    reference: a model to stay near to, or None.
  """

  student: Model
  teacher: Model | None = None
  reference: Model | None = None


class Loss(NamedTuple):
  """A loss in nats.

  Attributes:
    nats: [B, L] of each token.
    terms: the parts of which `nats` is the sum, [B, L] each, by name.
  """

  nats: Array
  terms: dict[str, Array]


class Objective(Protocol):
  """A loss. `estimand` says whether its mean bounds -log p(x0)."""

  @property
  def estimand(self) -> Estimand: ...

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss: ...
