"""Reparameterised absorbing discrete diffusion (RADD, Ou et al. 2024).

The ratios of an absorbing process are alpha / (1 - alpha) times conditionals
that do not depend on time, so the network need not see t (`model.time=none`)
and a step that reveals nothing calls no network (`Ancestral(skip=True)`).
"""

import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from textdiffusion.core.types import (
  Array,
  Cavity,
  Time,
  Vocab,
)
from textdiffusion.methods.method import Method, Needs, mask_of
from textdiffusion.model import RawHead
from textdiffusion.objectives.any_order import AnyOrder
from textdiffusion.objectives.nelbo import Nelbo, masked_bound
from textdiffusion.processes.rank_one import RankOne, absorbing
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


def dce_bound(p: RankOne, x0: Array, head: Any, z: Array, t: Time) -> Array:
  """t-DCE: `masked_bound` and log(e^sigma - 1) times its weight, [L] nats.

  The denoising cross-entropy takes -log of the ratio, not of the conditional.
  What it adds on a mask, -alpha' / (1 - alpha) log((1 - alpha) / alpha), has
  mean 0 over t where alpha goes from 1 to 0, and no gradient: the same
  training, and a loss that varies more.
  """
  level = p.schedule(t)
  weight = level.rate * jnp.exp(-level.log_1m_alpha)
  extra = weight * (level.log_1m_alpha - level.log_alpha)
  nats = masked_bound(p, x0, head, z, t)
  return nats + jnp.where(p.is_mask(z), extra[..., 0], 0.0)


@dataclasses.dataclass(frozen=True)
class RADD:
  """loss: one of the paper's four, all with the same mean.

  t_DSE: score entropy under `schedule`, `masked_bound` token by token.
  t_DCE: see `dce_bound`. lambda_DCE: the time is the chance of a mask, weight
  1 / lambda. k_DCE: k of L tokens are masked, weight L / k.
  schedule: of t_DSE and t_DCE; the others, the bound that is reported and the
  sampler have alpha = 1 - t.
  """

  loss: Literal['t_DSE', 't_DCE', 'lambda_DCE', 'k_DCE'] = 'lambda_DCE'
  schedule: Schedule = Linear()

  default_sampler: ClassVar[Sampler] = Ancestral()

  def build(self, vocab: Vocab) -> Method:
    process = absorbing(vocab.size, mask_of(vocab), Linear())
    of_t = absorbing(vocab.size, mask_of(vocab), self.schedule)
    bound = Nelbo(masked_bound)
    objective = {
      't_DSE': Nelbo(masked_bound, process=of_t),
      't_DCE': Nelbo(dce_bound, estimand='surrogate', process=of_t),
      'lambda_DCE': bound,
      'k_DCE': AnyOrder(),
    }[self.loss]
    return Method(
      process=process,
      objective=objective,
      evaluator=bound,
      head=RawHead(Cavity),
      sampler=self.default_sampler,
      needs=Needs(vocab.size),
    )
