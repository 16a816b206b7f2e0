"""Models whose predictions are steered: guidance goes around any model, and any
sampler runs the result."""

from collections.abc import Callable
from typing import Any, Literal

from jaxtyping import Float

from textdiffusion.constraints.draws import Acceptor
from textdiffusion.core.distributions import Categorical, extrapolate
from textdiffusion.core.numerics import pytree, static
from textdiffusion.core.types import (
  Array,
  Cavity,
  Dist,
  Facts,
  Mixture,
  Posterior,
  PyTree,
  Time,
  Transition,
  UserError,
  X,
)
from textdiffusion.model import Model, WrappedModel
from textdiffusion.nn.network import View
from textdiffusion.processes.bridge import TokenProcess


@pytree
class Guided(Model):
  """Classifier-free guidance: cond^weight uncond^(1 - weight), normalised.

  Heads are mixed for absorbing and for Gaussian noise, and reverse steps for
  other token noise, where a mix of heads is no mix of steps (Ho & Salimans
  2022; Schiff et al. 2024). Weights 0 and 1 call only one of the two models.
  Other wrappers of models go around its parts, `Constrained` around it.

  Attributes:
    cond: the model with the condition.
    uncond: the model without it.
    weight: 1 is `cond`, 0 is `uncond`, above 1 is sharper.
  """

  cond: Model
  uncond: Model
  weight: float = static()

  @property
  def process(self) -> Any:
    return self.cond.process

  @property
  def view(self) -> View:
    return self.cond.view

  @property
  def facts(self) -> Facts:
    return self.cond.facts

  @property
  def _chunk_size(self) -> int:
    return self.cond._chunk_size

  def hidden(
    self, x: X | Mixture, t: Time, cache: PyTree = None
  ) -> tuple[PyTree, PyTree]:
    parts = self._parts()
    caches = (None,) * len(parts) if cache is None else cache
    calls = [part.hidden(x, t, own) for part, own in zip(parts, caches)]
    hidden, caches = zip(*calls)
    return hidden, None if cache is None else caches

  def read(self, hidden: PyTree, x: X | Mixture, t: Time) -> Any:
    heads = [part.read(h, x, t) for part, h in zip(self._parts(), hidden)]
    if len(heads) > 1 and self._guides_steps:
      raise TypeError(
        f'{type(self.process).__name__} is guided at the reverse step, where '
        'heads do not mix: call `reverse`'
      )
    return self._mixed(heads)

  def reverse(
    self, x: X, s: Time, t: Time, by: Transition | None = None
  ) -> Dist:
    if not self._guides_steps:
      return super().reverse(x, s, t, by)
    return self._mixed([part.reverse(x, s, t, by) for part in self._parts()])

  def with_view(self, **changes: Any) -> 'Guided':
    changed = (m.with_view(**changes) for m in (self.cond, self.uncond))
    return Guided(*changed, self.weight)

  def new_cache(self, rows: int, length: int) -> PyTree:
    return tuple(part.new_cache(rows, length) for part in self._parts())

  @property
  def _guides_steps(self) -> bool:
    process = self.process
    return isinstance(process, TokenProcess) and not process.is_absorbing

  def _parts(self) -> tuple[Model, ...]:
    alone = {0: (self.uncond,), 1: (self.cond,)}
    return alone.get(self.weight, (self.cond, self.uncond))

  def _mixed(self, parts: list[Any]) -> Any:
    return extrapolate(*parts, self.weight) if len(parts) > 1 else parts[0]


@pytree
class ClassifierGuided(WrappedModel):
  """Classifier guidance: p(x) p(label | x)^weight, normalised for each token.

  Reverse steps are guided by log p(label | x_t with one token replaced) for
  every place and token (D-CBG, Schiff et al. 2024), the mask among them. Heads
  of masked models may be guided instead: with an exact classifier and weight 1
  that is the same law, it leaves the reveal times as they are, and samplers
  that read heads only, such as FirstHitting(), take it too.

  Attributes:
    model: the model without a label.
    log_prob: (x_t [B, L], t) -> log p(label | x_t with token k at place i); one
      gradient is its linear approximation.
    weight: 0 is `model`, above 1 is sharper.
    at: 'steps', or 'heads' of masked models.
  """

  model: Model
  log_prob: Callable[[Any, Time], Float[Array, 'B L K']] = static()
  weight: float = static(default=1.0)
  at: Literal['steps', 'heads'] = static(default='steps')

  @property
  def _guides_steps(self) -> bool:
    return self.at == 'steps'

  def hidden(
    self, x: X | Mixture, t: Time, cache: PyTree = None
  ) -> tuple[PyTree, PyTree]:
    hidden, cache = self.model.hidden(x, t, cache)
    if self._guides_steps:
      return (hidden, None), cache
    # Here, where all tokens are there: heads may be read of a few of them.
    return (hidden, self.weight * self.log_prob(x, t)), cache

  def read(self, hidden: PyTree, x: X | Mixture, t: Time) -> Any:
    hidden, gain = hidden
    head = self.model.read(hidden, x, t)
    if gain is None:
      return head
    if not (self.process.is_absorbing and isinstance(head, Cavity | Posterior)):
      raise UserError(
        "ClassifierGuided(at='heads') needs masks and a network that predicts "
        f"tokens, not {type(head).__name__}: use at='steps'"
      )
    return type(head)(head.logits + gain)

  def reverse(
    self, x: X, s: Time, t: Time, by: Transition | None = None
  ) -> Dist:
    dist = super().reverse(x, s, t, by)
    if not self._guides_steps:
      return dist
    assert isinstance(dist, Categorical)
    return Categorical(dist.log_probs + self.weight * self.log_prob(x, t))


@pytree
class Constrained(WrappedModel):
  """A model whose samples an automaton accepts.

  Samplers that reveal or redraw clean tokens draw them all at once from the
  product of what the network predicts, restricted to accepted rows; a step
  keeps some of them. So a state can always be completed, and the last step
  completes it. `Constrained` is outermost: guidance goes inside.

  Attributes:
    model: the model without the constraint.
    acceptor: what is accepted, see `constraints.constrain`.
  """

  model: Model
  acceptor: Acceptor


def acceptor_of(model: Model) -> Acceptor | None:
  """Returns what a constrained model accepts, None for other models.

  Raises:
    UserError: the constraint is inside another wrapper, which ignores it.
  """
  if isinstance(model, Constrained):
    return model.acceptor
  parts = (getattr(model, name, None) for name in ('model', 'cond', 'uncond'))
  if any(isinstance(part, Model) and acceptor_of(part) for part in parts):
    raise UserError(
      f'{type(model).__name__} around a constrained model ignores the '
      'constraint: constrain the guided model instead'
    )
  return None


def guides_steps(model: Model) -> bool:
  """Whether reverse steps are guided, of which heads do not know."""
  if isinstance(model, Constrained):
    return guides_steps(model.model)
  is_guided = isinstance(model, Guided | ClassifierGuided)
  return is_guided and model._guides_steps
