"""Diffusion-LM: Gaussian noise on learnt embeddings (Li et al. 2022)."""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

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
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs
from textdiffusion.model import MethodState, RawHead
from textdiffusion.objectives.end_to_end import EndToEnd, Weights
from textdiffusion.objectives.latent_bound import LatentBound
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.latent import GaussianAncestral
from textdiffusion.schedules.adaptive import (
  SecondMoment,
  SmallestTime,
  empty_moments,
  nearest_noise,
)
from textdiffusion.schedules.variances import (
  SquareRoot,
  Variances,
  tabulated,
)

HEADS = {'x0': X0, 'eps': Eps, 'velocity': Velocity}


@dataclasses.dataclass(frozen=True)
class DiffusionLM:
  """Options of Diffusion-LM.

  Difformer (Gao et al. 2024) is weights=Weights(anchor=1, rounding=0),
  schedule=Rescaled(...), norm='layer'.

  Attributes:
    schedule: alpha of each step.
    num_steps: number of diffusion steps, T. It changes the model, as the noise
      of the first step is also the noise on the embeddings.
    size: D, numbers in an embedding.
    predict: what the network predicts: x0, the noise or the velocity.
    loss: training loss: the weighted terms of `EndToEnd`, or the variational
      bound.
    weights: weights of the terms of `EndToEnd`.
    times: how training times are drawn. 'uniform' is even; 'second_moment'
      draws the steps with large recent losses more often and corrects for it
      by weights (importance sampling); 'nearest_noise' is even above the time
      at which noise reaches the nearest embedding (DINOISER).
    history: number of losses kept per step, for 'second_moment'.
    update_every: training steps between two looks at the embeddings, for
      'nearest_noise'.
    std: standard deviation of the embeddings at initialisation.
    rounding: how features are turned into token logits, see `Features`.
    norm: how embeddings are normalised, see `Features`.
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
    check_fields(
      self,
      num_steps='[2, inf)',
      size='[1, inf)',
      history='[1, inf)',
      update_every='[1, inf)',
      std='(0, inf)',
    )
    if self.loss == 'bound' and self.times != 'uniform':
      raise UserError(
        f'method.times={self.times} needs the simple loss: set '
        'method.loss=simple, or method.times=uniform'
      )

  def build(self, vocab: Vocab) -> Method:
    process = VariancePreserving(tabulated(self.schedule, self.num_steps))
    return self.wired(vocab, process)

  def wired(
    self,
    vocab: Vocab,
    process: VariancePreserving,
    self_condition: float | None = None,
  ) -> Method:
    """Builds the method around any noise on embeddings.

    Args:
      vocab: sizes and special ids of the tokenizer.
      process: the forward process.
      self_condition: probability of self-conditioning, see `EndToEnd`; None
        turns it off.

    Returns:
      The method. Subclasses replace what they change.
    """
    uses_estimate = self_condition is not None
    bound = LatentBound(self.num_steps, uses_estimate)
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
          self.size, self.std, self.rounding, uses_estimate, norm=self.norm
        ),
      ),
      state=self._state(process),
    )

  def _state(self, process: VariancePreserving) -> MethodState | None:
    """Returns the method state that draws the times, or None if uniform."""
    match self.times:
      case 'second_moment':
        return LossByStep(self.num_steps, self.history)
      case 'nearest_noise':
        return NearestNoise(process, self.update_every)
    return None


@dataclasses.dataclass(frozen=True)
class LossByStep:
  """Method state of `times='second_moment'`: recent losses at each step.

  Attributes:
    num_steps: number of diffusion steps, T.
    history: number of losses kept per step.
  """

  num_steps: int
  history: int

  def init(self, facts: Facts) -> SecondMoment:
    return empty_moments(self.num_steps, self.history)

  def before_step(
    self, state: SecondMoment, facts: Facts, step: Int[Array, '']
  ) -> SecondMoment:
    return state

  def after_step(
    self,
    state: SecondMoment,
    batch: Batch,
    terms: dict[str, Float[Array, 'B L']],
  ) -> SecondMoment:
    index, weight = state.draw(batch.u)
    total = jnp.stack(list(terms.values())).sum(0)
    count = jnp.maximum(batch.is_counted.sum(-1), 1)
    mean = jnp.where(batch.is_counted, total, 0.0).sum(-1) / count
    return state.add(index, mean / weight)


@dataclasses.dataclass(frozen=True)
class NearestNoise:
  """Method state of `times='nearest_noise'`: the smallest training time.

  Attributes:
    process: the forward process.
    update_every: training steps between two computations of that time.
  """

  process: VariancePreserving
  update_every: int

  def init(self, facts: Facts) -> SmallestTime:
    assert facts.table is not None
    table = jax.lax.stop_gradient(facts.table)
    return nearest_noise(self.process.schedule, table)

  def before_step(
    self, state: SmallestTime, facts: Facts, step: Int[Array, '']
  ) -> SmallestTime:
    is_due = step % self.update_every == 0
    return jax.lax.cond(is_due, lambda: self.init(facts), lambda: state)

  def after_step(
    self,
    state: SmallestTime,
    batch: Batch,
    terms: dict[str, Float[Array, 'B L']],
  ) -> SmallestTime:
    return state
