"""The contract of an objective: a loss of one or several models."""

from typing import Literal, NamedTuple, Protocol

from jaxtyping import Float

from textdiffusion.core.types import Array, Batch, Key
from textdiffusion.model import Model

Estimand = Literal['nelbo', 'surrogate']


class Models(NamedTuple):
  """The models that a loss depends on.

  The teacher and the reference receive no gradient, and checkpoints store no
  second copy of them.

  Attributes:
    student: the model that is trained.
    teacher: a model to distil, or None.
    reference: a model that the student should stay close to, or None.
  """

  student: Model
  teacher: Model | None = None
  reference: Model | None = None


class Loss(NamedTuple):
  """A loss in nats.

  Attributes:
    nats: [B, L] loss per token.
    terms: the summands of `nats`, [B, L] each, by name.
  """

  nats: Float[Array, 'B L']
  terms: dict[str, Float[Array, 'B L']]


class Objective(Protocol):
  """A loss per token.

  Attributes:
    estimand: 'nelbo' if the mean of the loss bounds -log p(x0), 'surrogate' if
      it does not.
  """

  @property
  def estimand(self) -> Estimand: ...

  def __call__(self, models: Models, key: Key, batch: Batch) -> Loss:
    """Computes the loss.

    Args:
      models: the models, with their current parameters and processes.
      key: random key; rows fold it with `Batch.rows`.
      batch: rows of data.
    """
    ...
