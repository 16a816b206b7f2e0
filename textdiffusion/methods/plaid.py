"""Plaid: likelihood by diffusion on embeddings, noise learnt with the network
(Gulrajani & Hashimoto 2023)."""

import dataclasses

import jax
import jax.numpy as jnp

from textdiffusion.core.types import (
  Array,
  Condition,
  Denoiser,
  Features,
  Posterior,
  PyTree,
  Time,
  UserError,
  Vocab,
  typed,
)
from textdiffusion.methods.method import Method, check_chance
from textdiffusion.objectives.plaid import ContinuousBound
from textdiffusion.processes.variance_preserving import Learnt
from textdiffusion.sampling.latent import latent_sampler
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
    objective = ContinuousBound(process, self.self_condition)
    return Method(
      process=process,
      objective=objective,
      evaluator=dataclasses.replace(objective, always_shown=True),
      head=typed(Posterior),
      sampler=latent_sampler(process, 0, shown),
      causal=False,
      num_states=vocab.size,
      init_params=lambda key: {
        'noise': start(key),
        'likelihood': jnp.ones(()),
      },
      wrap=with_likelihood,
      features=Features(
        self.size, self_condition=shown, says='tokens', norm='unit'
      ),
    )


def with_likelihood(denoiser: Denoiser) -> Denoiser:
  """The network is told gamma, and its logits begin at what x_t itself says of
  each token, log q(x_t | w) times a learnt number ("categorical
  reparameterisation")."""
  table = denoiser.table
  assert table is not None

  def apply(params: PyTree, x: Array, t: Time, condition: Condition) -> Array:
    own, rows = params['method'], table(params)
    noise = LearntGamma(**own['noise'])
    level, features = noise(t), x[..., : rows.shape[-1]]
    # Embeddings are equally long, so the rest is the same for every token.
    pull = jnp.exp(0.5 * level.log_alpha - level.log_1m_alpha)
    told = jnp.clip((noise.gamma(t) + 10) / 20, 0.0, 1.0)
    raw = denoiser.apply(params, x, told, condition)
    return raw + own['likelihood'] * pull * (features @ rows.T)

  return denoiser._replace(apply=apply)
