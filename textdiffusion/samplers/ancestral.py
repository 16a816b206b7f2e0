"""Ancestral sampling of any token process: the exact reverse bridge."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from textdiffusion.core.numerics import flip, log1m_exp
from textdiffusion.core.types import Array, Key
from textdiffusion.guidance import guides_steps
from textdiffusion.model import Model
from textdiffusion.processes.vector import VectorAbsorbing
from textdiffusion.samplers.base import Chain, split
from textdiffusion.samplers.grid import (
  GridSampler,
  can_constrain,
  check_masking,
  clean_logits,
  greedy_at_end,
  is_masking,
  place_tokens,
)


@dataclasses.dataclass(frozen=True)
class Ancestral(GridSampler):
  """The bridge q(x_s | x_t, xhat) over a grid.

  Of an absorbing process it is drawn in two parts: which tokens are revealed,
  with probability (alpha_s - alpha_t) / (1 - alpha_t), then the tokens. So
  small steps never enter the softmax, where float32 would lose them. The last
  interval reveals all that is left.

  Attributes:
    skip: skips the network call in steps that reveal no token. The samples are
      the same to the bit, as the first draw does not depend on the network.
  """

  skip: bool = False

  def check(self, model: Model) -> None:
    super().check(model)
    if self.skip:
      check_masking(self, model)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Chain,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Chain:
    p = model.process
    if guides_steps(model) or not is_masking(p):
      return super().step(keys, model, carry, s, t)
    key_where, key_what = split(keys)
    left = p.schedule(s).log_1m_alpha - p.schedule(t).log_1m_alpha
    left = jnp.where(s[..., None] <= 0, -jnp.inf, left)
    is_revealed = jax.vmap(flip)(key_where, log1m_exp(left)[..., 0])
    is_revealed &= p.is_mask(carry.x)

    def reveal(carry: Chain) -> Chain:
      raw = clean_logits(p, model(carry.x, t).head, carry.x, t)
      logits = self.filter(raw)
      if self.final == 'greedy':
        logits = greedy_at_end(logits, s)
      return place_tokens(key_what, carry, is_revealed, logits, model, raw)

    if not self.skip:
      return reveal(carry)
    return jax.lax.cond(is_revealed.any(), reveal, lambda carry: carry, carry)

  def takes_constraints(self, model: Model) -> bool:
    return can_constrain(model)

  def is_done(self, model: Model, carry: Chain) -> Bool[Array, ' B']:
    p = model.process
    if not (p.is_absorbing or isinstance(p, VectorAbsorbing)):
      return super().is_done(model, carry)
    return ~p.is_mask(carry.x).any(-1)
