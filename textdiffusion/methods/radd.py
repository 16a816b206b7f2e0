"""Reparameterised absorbing discrete diffusion (RADD, Ou et al. 2024).

The ratios of an absorbing process are alpha / (1 - alpha) times conditionals
that do not depend on time. So the network needs no time input
(`model.time=none`), and steps that reveal no token can skip the network call
(`Ancestral(skip=True)`).
"""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.numerics import match_ranks
from textdiffusion.core.types import (
  Array,
  Cavity,
  Head,
  Time,
  Vocab,
)
from textdiffusion.core.validation import check_fields
from textdiffusion.methods.method import Method, Needs, mask_of
from textdiffusion.model import RawHead
from textdiffusion.objectives.any_order import AnyOrder
from textdiffusion.objectives.nelbo import Nelbo, masked_bound
from textdiffusion.processes.rank_one import RankOne, absorbing
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import Sampler
from textdiffusion.schedules.noise import Linear, Schedule


def dce_bound(
  p: RankOne,
  x0: Int[Array, '... L'],
  head: Head,
  z: Int[Array, '... L'],
  t: Time,
) -> Float[Array, '... L']:
  """Computes RADD's t-DCE loss at time t: [L] nats per unit of t.

  The denoising cross-entropy takes -log of the ratio where `masked_bound` takes
  -log of the conditional. The difference on a mask,
  -alpha' / (1 - alpha) log((1 - alpha) / alpha), has no gradient, and its mean
  over t is 0 if alpha goes from 1 to 0. So training is the same, and the loss
  has more variance.

  Args:
    p: an absorbing process.
    x0: [L] clean tokens.
    head: `Cavity` or `Posterior` at x_t.
    z: [L] noisy tokens.
    t: time.
  """
  x0, z, t = match_ranks(x0, z, t)
  level = p.schedule(t)
  weight = level.rate * jnp.exp(-level.log_1m_alpha)
  extra = weight * (level.log_1m_alpha - level.log_alpha)
  nats = masked_bound(p, x0, head, z, t)
  return nats + jnp.where(p.is_mask(z), extra[..., 0], 0.0)


@dataclasses.dataclass(frozen=True)
class RADD:
  """Options of RADD.

  Attributes:
    loss: one of the four losses of the paper, which have the same mean. 't_DSE'
      is the score entropy with noise by `schedule`; 't_DCE' is `dce_bound`;
      'lambda_DCE' masks tokens with probability lambda and weighs by
      1 / lambda; 'k_DCE' masks k of L tokens and weighs by L / k.
    schedule: noise schedule of 't_DSE' and 't_DCE'. The other losses, the
      reported bound and the sampler use alpha = 1 - t.
  """

  loss: Literal['t_DSE', 't_DCE', 'lambda_DCE', 'k_DCE'] = 'lambda_DCE'
  schedule: Schedule = Linear()

  default_sampler: ClassVar[Sampler] = Ancestral()

  def __post_init__(self) -> None:
    check_fields(self)

  def build(self, vocab: Vocab) -> Method:
    process = absorbing(vocab.size, mask_of(vocab), Linear())
    scheduled = absorbing(vocab.size, mask_of(vocab), self.schedule)
    bound = Nelbo(masked_bound)
    objective = {
      't_DSE': Nelbo(masked_bound, process=scheduled),
      't_DCE': Nelbo(dce_bound, estimand='surrogate', process=scheduled),
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
