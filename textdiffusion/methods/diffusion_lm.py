"""Diffusion-LM: Gaussian noise on learnt embeddings (Li et al. 2022)."""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from textdiffusion.core.types import (
  X0,
  Array,
  Batch,
  Eps,
  Features,
  Model,
  UserError,
  Velocity,
  Vocab,
  typed,
)
from textdiffusion.methods.method import Method
from textdiffusion.objectives.end_to_end import EndToEnd, Weights
from textdiffusion.objectives.latent_bound import LatentBound
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.sampling.latent import latent_sampler
from textdiffusion.schedules.adaptive import (
  LeastNoise,
  SecondMoment,
  no_losses,
  told_apart,
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
  times: Literal['uniform', 'second_moment', 'told_apart'] = 'uniform'
  history: int = 10
  update_every: int = 50
  std: float = 1.0
  rounding: Literal['dot', 'distance'] = 'dot'
  norm: Literal['none', 'root', 'layer', 'unit'] = 'none'

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
    bound = LatentBound(process, self.num_steps, is_shown)
    simple = EndToEnd(process, self.num_steps, self.weights, self_condition)
    return Method(
      process=process,
      objective=simple if self.loss == 'simple' else bound,
      evaluator=bound,
      head=typed(HEADS[self.predict]),
      sampler=latent_sampler(process, self.num_steps, is_shown),
      causal=False,
      num_states=vocab.size,
      features=Features(
        self.size, self.std, self.rounding, is_shown, norm=self.norm
      ),
      **self._states(process),
    )

  def _states(self, process: VariancePreserving) -> dict[str, Any]:
    """What `Method` is told of times that are not uniform."""
    match self.times:
      case 'second_moment':
        return self._second_moments()
      case 'told_apart':

        def state(old: LeastNoise | None, model: Model, step: Array):
          assert model.table is not None
          table = jax.lax.stop_gradient(model.table)
          fresh = lambda: told_apart(process.schedule, table)
          if old is None:
            return fresh()
          return jax.lax.cond(step % self.update_every == 0, fresh, lambda: old)

        return {'state': state}
    return {}

  def _second_moments(self) -> dict[str, Any]:
    """What `Method` is told of times that follow the loss."""

    def state(old: SecondMoment | None, model: Model, step: Array):
      return no_losses(self.num_steps, self.history) if old is None else old

    def observe(old: SecondMoment, batch: Batch, terms: dict[str, Array]):
      index, weight = old.draw(batch.u)
      total = jnp.stack(list(terms.values())).sum(0)
      count = jnp.maximum(batch.is_counted.sum(-1), 1)
      mean = jnp.where(batch.is_counted, total, 0.0).sum(-1) / count
      return old.add(index, mean / weight)

    return {'state': state, 'observe': observe}
