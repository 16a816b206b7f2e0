"""Plaid (Gulrajani & Hashimoto 2023): likelihood training of diffusion on
embeddings, with a noise schedule that is learnt together with the network."""

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
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs
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
  """Options of Plaid.

  Attributes:
    size: D, numbers in an embedding; embeddings have length 1.
    gamma_min: initial log of noise over signal at t = 0; it is learnt.
    gamma_max: initial log of noise over signal at t = 1; it is learnt.
    self_condition: probability that a training step feeds the network its own
      estimate of x0; None turns self-conditioning off.
  """

  size: int = 16
  gamma_min: float = -3.0
  gamma_max: float = 6.0
  self_condition: float | None = 0.25

  default_sampler: ClassVar[Sampler] = GaussianAncestral()

  def __post_init__(self) -> None:
    check_fields(self, size='[1, inf)', self_condition='[0, 1]')
    if self.gamma_min >= self.gamma_max:
      raise UserError(
        f'method.gamma_min={self.gamma_min}: must be below '
        f'method.gamma_max={self.gamma_max}'
      )

  def build(self, vocab: Vocab) -> Method:
    start = lambda key: learnable(key, self.gamma_min, self.gamma_max)
    process = Learnt(LearntGamma(**start(jax.random.key(0))))
    uses_estimate = self.self_condition is not None

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
          self.size,
          self_condition=uses_estimate,
          predicts='tokens',
          norm='unit',
        ),
        wrap=wrap,
      ),
    )
