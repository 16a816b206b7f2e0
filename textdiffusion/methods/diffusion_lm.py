"""Diffusion-LM: Gaussian noise on learnt embeddings (Li et al. 2022)."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from textdiffusion.core.types import (
  X0,
  Array,
  Batch,
  Eps,
  Facts,
  Features,
  UserError,
  Velocity,
  Vocab,
)
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import MethodState, RawHead
from textdiffusion.objectives.end_to_end import EndToEnd, Weights
from textdiffusion.objectives.latent_bound import LatentBound
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.latent import GaussianAncestral
from textdiffusion.schedules.adaptive import (
  LeastNoise,
  SecondMoment,
  nearest_noise,
  no_losses,
)
from textdiffusion.schedules.variances import (
  SquareRoot,
  Variances,
  tabulated,
)

HEADS = {'x0': X0, 'eps': Eps, 'velocity': Velocity}


@dataclasses.dataclass(frozen=True)
class DiffusionLM:
  """schedule: of alpha on num_steps steps, T; the first step is also the noise
  of the embeddings, so T matters. size: D. predict: what the network says.
  loss: the weighted terms of `EndToEnd`, or the bound that is reported.
  weights: of the terms. times: drawn evenly, or where the squared loss of late
  was large, corrected by weights; `history` losses of each step are kept. Or
  evenly from where noise reaches the nearest embeddings, looked at every
  update_every steps (DINOISER).
  std: of embeddings at first. rounding, norm: see `Features`. Difformer is
  weights=Weights(anchor=1, rounding=0), schedule=Rescaled(...), norm='layer'.
  """

  schedule: Variances = SquareRoot()
  num_steps: int = 2000
  size: int = 16
  predict: Literal['x0', 'eps', 'velocity'] = 'x0'
  loss: Literal['simple', 'bound'] = 'simple'
  weights: Weights = Weights()
  times: Literal['uniform', 'second_moment', 'nearest_noise'] = 'uniform'
  history: int = 10
  update_every: int = 50
  std: float = 1.0
  rounding: Literal['dot', 'distance'] = 'dot'
  norm: Literal['none', 'root', 'layer', 'unit'] = 'none'

  default_sampler: ClassVar[Sampler] = GaussianAncestral()

  def __post_init__(self) -> None:
    for name, least in (
      ('num_steps', 2),
      ('size', 1),
      ('history', 1),
      ('update_every', 1),
    ):
      if getattr(self, name) < least:
        raise UserError(
          f'method.{name}={getattr(self, name)}: must be at least {least}'
        )
    if self.loss == 'bound' and self.times != 'uniform':
      raise UserError(
        f'method.times={self.times} is of the simple loss: set '
        'method.loss=simple, or method.times=uniform'
      )
    if self.std <= 0:
      raise UserError(f'method.std={self.std}: must be positive')

  def build(self, vocab: Vocab) -> Method:
    process = VariancePreserving(tabulated(self.schedule, self.num_steps))
    return self.wired(vocab, process)

  def wired(
    self,
    vocab: Vocab,
    process: VariancePreserving,
    self_condition: float | None = None,
  ) -> Method:
    """The method of any noise. self_condition: see `EndToEnd`."""
    is_shown = self_condition is not None
    bound = LatentBound(self.num_steps, is_shown)
    simple = EndToEnd(self.num_steps, self.weights, self_condition)
    return Method(
      process=process,
      objective=simple if self.loss == 'simple' else bound,
      evaluator=bound,
      head=RawHead(HEADS[self.predict]),
      sampler=self.default_sampler,
      needs=Needs(
        vocab.size,
        features=Features(
          self.size, self.std, self.rounding, is_shown, norm=self.norm
        ),
      ),
      state=self._state(process),
    )

  def _state(self, process: VariancePreserving) -> MethodState | None:
    """The state of times that are not uniform."""
    match self.times:
      case 'second_moment':
        return LossByStep(self.num_steps, self.history)
      case 'nearest_noise':
        return NearestNoise(process, self.update_every)
    return None


@dataclasses.dataclass(frozen=True)
class LossByStep:
  """State of times that follow the loss: the last losses at each step.

  Attributes:
    num_steps: T.
    history: losses of each step that are kept.
  """

  num_steps: int
  history: int

  def init(self, facts: Facts) -> SecondMoment:
    return no_losses(self.num_steps, self.history)

  def before_step(
    self, state: SecondMoment, facts: Facts, step: Array
  ) -> SecondMoment:
    return state

  def after_step(
    self, state: SecondMoment, batch: Batch, terms: dict[str, Array]
  ) -> SecondMoment:
    index, weight = state.draw(batch.u)
    total = jnp.stack(list(terms.values())).sum(0)
    count = jnp.maximum(batch.is_counted.sum(-1), 1)
    mean = jnp.where(batch.is_counted, total, 0.0).sum(-1) / count
    return state.add(index, mean / weight)


@dataclasses.dataclass(frozen=True)
class NearestNoise:
  """State of times that begin where noise reaches the nearest embeddings.

  Attributes:
    process: the noise.
    update_every: training steps between looks at the embeddings.
  """

  process: VariancePreserving
  update_every: int

  def init(self, facts: Facts) -> LeastNoise:
    assert facts.table is not None
    table = jax.lax.stop_gradient(facts.table)
    return nearest_noise(self.process.schedule, table)

  def before_step(
    self, state: LeastNoise, facts: Facts, step: Array
  ) -> LeastNoise:
    is_due = step % self.update_every == 0
    return jax.lax.cond(is_due, lambda: self.init(facts), lambda: state)

  def after_step(
    self, state: LeastNoise, batch: Batch, terms: dict[str, Array]
  ) -> LeastNoise:
    return state
