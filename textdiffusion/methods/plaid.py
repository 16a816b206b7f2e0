"""Plaid: likelihood by diffusion on embeddings, noise learnt with the network
(Gulrajani & Hashimoto 2023)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from textdiffusion.core.types import (
  Features,
  Key,
  Posterior,
  PyTree,
  UserError,
  Vocab,
)
from textdiffusion.methods.method import Method, Needs, check_chance
from textdiffusion.model import RawHead
from textdiffusion.nn.network import Network
from textdiffusion.nn.wrappers import LikelihoodLogits, WithParams
from textdiffusion.objectives.plaid import ContinuousBound
from textdiffusion.processes.variance_preserving import Learnt
from textdiffusion.samplers.base import Sampler
from textdiffusion.samplers.latent import GaussianAncestral
from textdiffusion.schedules.learnt import LearntGamma, learnable


@dataclasses.dataclass(frozen=True)
class Plaid:
  """size: D, of embeddings of length 1. gamma_min, gamma_max: of the log of
  noise over signal at first; both are learnt. self_condition: the chance that
  training shows an estimate, None for never."""

  size: int = 16
  gamma_min: float = -3.0
  gamma_max: float = 6.0
  self_condition: float | None = 0.25

  default_sampler: ClassVar[Sampler] = GaussianAncestral()

  def __post_init__(self) -> None:
    check_chance(self.self_condition)
    if self.size < 1:
      raise UserError(f'method.size={self.size}: must be at least 1')
    if self.gamma_min >= self.gamma_max:
      raise UserError(
        f'method.gamma_min={self.gamma_min}: must be below '
        f'method.gamma_max={self.gamma_max}'
      )

  def build(self, vocab: Vocab) -> Method:
    start = lambda key: learnable(key, self.gamma_min, self.gamma_max)
    process = Learnt(LearntGamma(**start(jax.random.key(0))))
    shown = self.self_condition is not None

    def init(key: Key) -> PyTree:
      return {'noise': start(key), 'likelihood': jnp.ones(())}

    def wrap(network: Network) -> Network:
      return LikelihoodLogits(WithParams(network, init))

    objective = ContinuousBound(self.self_condition)
    return Method(
      process=process,
      objective=objective,
      evaluator=dataclasses.replace(objective, always_shown=True),
      head=RawHead(Posterior),
      sampler=self.default_sampler,
      needs=Needs(
        vocab.size,
        features=Features(
          self.size, self_condition=shown, says='tokens', norm='unit'
        ),
        wrap=wrap,
      ),
    )
