"""Psi-samplers: fresh noise on the estimate, for any token process.

A predictor and a corrector in one step (Deschenaux et al. 2026). With
kappa = 1 - sigma / (1 - alpha_s) and an absorbing process it is `Remask`.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log_add, match_ranks
from textdiffusion.core.types import (
  Array,
  Time,
  TokenHead,
  Transition,
  UserError,
)
from textdiffusion.model import Model
from textdiffusion.processes.bridge import TokenProcess, to_posterior
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.remask import Amount, RenoisingSampler, amount


@dataclasses.dataclass(frozen=True)
class Psi(RenoisingSampler):
  """Draws x_s from kappa q(x_s | x_t, xhat) + (1 - kappa) q_s(x_s | xhat).

  xhat is the prediction of the network. kind='constant' has kappa = 1 - eta and
  suits any process. The other kinds, those of ReMDM, need rank-one noise:
  kappa = 1 - sigma / (1 - alpha_s), sigma being the probability of remasking.
  """

  def check(self, model: Model) -> None:
    super().check(model)
    if self.kind == 'confidence':
      raise UserError("Psi(kind='confidence'): this kind is of Remask() only")
    if self.kind != 'constant' and not isinstance(model.process, RankOne):
      raise UserError(
        f'Psi(kind={self.kind!r}) needs one alpha for all tokens, unlike that '
        f"of {type(model.process).__name__}: use Psi(kind='constant')"
      )

  def transition(self, process: Any) -> Transition:
    if self.kind == 'constant':
      return psi(process, self._constant)
    return psi(process, kappa_of(process, amount(process, self)))

  def _constant(self, s: Time, t: Time) -> Float[Array, '... 1']:
    is_on = jnp.asarray(t)[..., None] <= self.switch
    return jnp.where(is_on, 1 - self.eta, 1.0)


def psi(process: TokenProcess, kappa: Amount) -> Transition:
  """kappa bridge + (1 - kappa) q_s(. | p(x | z)): (head, x_t, s, t) -> [L, K].

  The second part draws x as if s were 0 and adds the noise of s anew. Any
  process and head.
  """

  def transition(
    head: TokenHead, xt: Int[Array, '... L'], s: Time, t: Time
  ) -> Categorical:
    xt, s, t = match_ranks(xt, s, t)
    # A given token, t = 0, stays even where a schedule has noise there.
    kept = jnp.where(jnp.asarray(t)[..., None] > 0, kappa(s, t), 1.0)
    posterior = to_posterior(process, head, xt, t)
    anew = process.marginal(posterior.logits, s).log_probs
    bridge = process.bridge(head, xt, s, t).log_probs
    return Categorical(log_add(jnp.log(kept) + bridge, jnp.log1p(-kept) + anew))

  return transition


def kappa_of(process: RankOne, sigma: Amount) -> Amount:
  """kappa = 1 - sigma / (1 - alpha_s), at least 0.

  sigma above 1 - alpha_s, which remasking admits, has no kappa.
  """

  def kappa(s: Time, t: Time) -> Float[Array, '... 1']:
    noise = jnp.exp(process.schedule(s).log_1m_alpha)
    some = noise > 0
    ratio = sigma(s, t) / jnp.where(some, noise, 1.0)
    return jnp.where(some, jnp.maximum(1 - ratio, 0.0), 1.0)

  return kappa
