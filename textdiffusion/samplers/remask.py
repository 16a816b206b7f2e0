"""Remasking of absorbing processes, which can correct a token already drawn.

The marginals q_s(. | x) are kept for every x and every admissible amount, so a
network needs no other training (ReMDM, Wang et al. 2025).
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log1m_exp, log_one_hot, match_ranks
from textdiffusion.core.types import (
  Array,
  Key,
  Posterior,
  Time,
  TokenHead,
  Transition,
)
from textdiffusion.core.validation import check_fields, refuse_unused_fields
from textdiffusion.guidance import acceptor_of
from textdiffusion.model import Model
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.samplers.base import Canvas, Carry, Chain, draw_rows, split
from textdiffusion.samplers.grid import (
  STEPS,
  GridSampler,
  can_constrain,
  check_masking,
  clean_logits,
  clean_tokens,
  greedy_at_end,
)
from textdiffusion.schedules import grids, times
from textdiffusion.schedules.betas import Tabulated
from textdiffusion.schedules.noise import inverse

# (s, t) -> the chance that a visible token is remasked, or kappa.
Amount = Callable[[Time, Time], Float[Array, '... 1']]


class AmountOptions(Protocol):
  """The options that set how many tokens are remasked; `amount` reads them."""

  @property
  def kind(self) -> str: ...
  @property
  def eta(self) -> float: ...
  @property
  def switch(self) -> float: ...


@dataclasses.dataclass(frozen=True)
class RenoisingSampler(GridSampler):
  """A sampler that puts some of the drawn tokens back to noise.

  sigma is the chance that a token goes back to the mask in a step. The largest
  admissible sigma is min(1, (1 - alpha_s) / alpha_t) (Wang et al. 2025, section
  4).

  Attributes:
    kind: 'cap' is eta, or the largest. 'rescale' is eta times the largest.
      'confidence' is that times softmax(-p) over the visible tokens, p of each
      when it was drawn. 'loop' is cap on a plateau of the grid and nothing
      elsewhere. 'constant' is eta (1 - alpha_s). 'forward_backward' is
      (alpha_s - alpha_t) / alpha_t, one forward step. 'dfm' is
      eta (t (1 - t))^(1/4) of that at 1 - alpha = t, as in Gat et al. 2024.
    eta: size of sigma; 0 is ancestral sampling.
    switch: nothing goes back at times above it.
    t_on, t_off, alpha_on: of 'loop'. The share 1 - t_on of the steps goes to
      alpha = alpha_on, t_on - t_off of them stay there and t_off finish.
  """

  kind: Literal[
    'cap',
    'rescale',
    'confidence',
    'loop',
    'constant',
    'forward_backward',
    'dfm',
  ] = 'cap'
  eta: float = 0.02
  switch: float = 1.0
  t_on: float = 0.55
  t_off: float = 0.05
  alpha_on: float = 0.9

  def __post_init__(self) -> None:
    check_fields(
      self,
      steps=STEPS,
      eta='[0, 1e30]' if self.kind == 'dfm' else '[0, 1]',
      switch='[0, 1]',
      t_off='(0, 1)',
      t_on=f'[{self.t_off}, 1)',
      alpha_on='(0, 1)',
    )
    if self.kind != 'loop':
      names = 't_on', 't_off', 'alpha_on'
      refuse_unused_fields(self, *names, needs="kind='loop'")
    if self.kind == 'forward_backward':
      refuse_unused_fields(self, 'eta', needs='another kind')

  def times(self, model: Model, canvas: Canvas) -> Float[Array, ' N']:
    if self.kind != 'loop':
      return super().times(model, canvas)
    schedule = model.process.schedule
    at = inverse(schedule, jnp.log1p(-jnp.asarray(self.alpha_on, float)))
    grid = grids.plateau(self.steps, at, self.t_on, self.t_off)
    if isinstance(schedule, Tabulated):  # which has the times i / T only
      return times.place(grid, schedule.num_steps) / schedule.num_steps
    return grid


@dataclasses.dataclass(frozen=True)
class Remask(RenoisingSampler):
  """ReMDM (Wang et al. 2025): visible tokens go back to the mask.

  `log_prob` is the network's of the token that stands, 0 at masks.
  """

  def check(self, model: Model) -> None:
    check_masking(self, model)

  def takes_constraints(self, model: Model) -> bool:
    return can_constrain(model)

  def step(
    self,
    keys: Key,
    model: Model,
    carry: Chain,
    s: Float[Array, 'B L'],
    t: Float[Array, 'B L'],
  ) -> Chain:
    p = model.process
    sigma = amount(p, self)
    if self.kind == 'confidence':
      sigma = by_confidence(p, sigma, carry)
    raw = clean_logits(p, model(carry.x, t).head, carry.x, t)
    logits = law = self.filter(raw)
    if acceptor_of(model) is not None:
      keys, keys_clean = split(keys)
      if self.final == 'greedy':
        logits = greedy_at_end(logits, s)
      ids, _ = clean_tokens(
        keys_clean, model, logits, raw, carry.x, p.is_mask(carry.x)
      )
      logits = log_one_hot(ids, raw.shape[-1])
    dist: Any = remasking(p, sigma)(Posterior(logits), carry.x, s, t)
    if self.final == 'greedy':
      dist = Categorical(greedy_at_end(dist.logits, s))
    x = draw_rows(keys, dist).astype(carry.x.dtype)
    is_mask = p.is_mask(x)
    log_prob = Categorical(law).log_prob(jnp.where(is_mask, p.mask_id == 0, x))
    log_prob = jnp.where(x == carry.x, carry.log_prob, log_prob)
    log_prob = jnp.where(is_mask, 0.0, log_prob).astype(jnp.float32)
    return Chain(x, log_prob, carry.calls + 1)


def most(process: RankOne, s: Time, t: Time) -> Float[Array, '... 1']:
  """The largest admissible sigma, min(1, (1 - alpha_s) / alpha_t)."""
  noise = process.schedule(s).log_1m_alpha
  signal = process.schedule(t).log_alpha
  none = jnp.isneginf(noise)
  ratio = jnp.where(none, 0.0, noise) - signal
  return jnp.where(none, 0.0, jnp.exp(jnp.minimum(ratio, 0.0)))


def amount(process: RankOne, options: AmountOptions) -> Amount:
  """Returns (s, t) -> sigma, the probability that a token is masked again.

  'confidence' shares the sigma of 'rescale' among the tokens of a row later.
  """

  def chosen(
    s: Time, t: Time, limit: Float[Array, '... 1']
  ) -> Float[Array, '... 1'] | float:
    now, then = process.schedule(s), process.schedule(t)
    match options.kind:
      case 'rescale' | 'confidence':
        return options.eta * limit
      case 'loop':
        is_flat = now.log_alpha == then.log_alpha
        return jnp.where(is_flat, options.eta, 0.0)
      case 'constant':
        return options.eta * jnp.exp(now.log_1m_alpha)
      case 'forward_backward':
        return jnp.expm1(now.log_alpha - then.log_alpha)
      case 'dfm':
        scale = options.eta * jnp.exp((then.log_alpha + then.log_1m_alpha) / 4)
        step = jnp.expm1(now.log_alpha - then.log_alpha)
        # No signal at t: there is nothing to correct, and the step is infinite.
        return jnp.where(scale > 0, scale * step, 0.0)
    return options.eta

  def sigma(s: Time, t: Time) -> Float[Array, '... 1']:
    limit = most(process, s, t)
    is_on = jnp.asarray(t)[..., None] <= options.switch
    return jnp.where(is_on, jnp.minimum(chosen(s, t, limit), limit), 0.0)

  return sigma


def remasking(process: RankOne, sigma: Amount) -> Transition:
  """ReMDM's step, equation 7: (head, x_t [L], s, t) -> [L, K].

  A visible token is remasked with probability sigma; a masked one stays with
  (1 - alpha_s - sigma alpha_t) / (1 - alpha_t), else is drawn from the head.
  sigma = 0 is the bridge. Given tokens, t = 0, cannot be remasked, and in the
  last interval, s = 0, whatever is masked is drawn.
  """

  def transition(
    head: TokenHead, xt: Int[Array, '... L'], s: Time, t: Time
  ) -> Categorical:
    xt, s, t = match_ranks(xt, jnp.asarray(s), jnp.asarray(t))
    now, then = process.schedule(s), process.schedule(t)
    is_last = s[..., None] <= 0
    share = jnp.where(is_last, 0.0, sigma(s, t))
    none = jnp.isneginf(now.log_1m_alpha) | is_last
    noise = jnp.where(none, 0.0, now.log_1m_alpha)
    taken = jnp.minimum(share * jnp.exp(then.log_alpha - noise), 1.0)
    stay = noise - then.log_1m_alpha + jnp.log1p(-taken)
    stay = jnp.where(none, -jnp.inf, stay)
    is_masked = process.is_mask(xt)[..., None]
    clean = jax.nn.log_softmax(clean_logits(process, head, xt, t))
    token = jnp.where(
      is_masked,
      log1m_exp(jnp.minimum(stay, 0.0)) + clean,
      jnp.log1p(-share) + log_one_hot(xt, process.num_states),
    )
    mask = jnp.where(is_masked, stay, jnp.log(share))
    states = jnp.arange(process.num_states)
    is_mask, mask, token = match_ranks(process.is_mask(states), mask, token)
    return Categorical(jnp.where(is_mask, mask, token))

  return transition


def by_confidence(process: RankOne, sigma: Amount, chain: Carry) -> Amount:
  """sigma times softmax(-p) over the drawn tokens of a row.

  p: the probability of each token when it was drawn, which the chain keeps.
  """

  def shared(s: Time, t: Time) -> Float[Array, '... 1']:
    x, t = match_ranks(chain.x, jnp.asarray(t))
    is_drawn = ~process.is_mask(x) & (t > 0)
    logits = jnp.where(is_drawn, -jnp.exp(chain.log_prob), -jnp.inf)
    some = is_drawn.any(-1, keepdims=True)
    share = jax.nn.softmax(jnp.where(some, logits, 0.0))
    size, share = match_ranks(
      sigma(s, t), jnp.where(is_drawn, share, 0.0)[..., None]
    )
    return size * share

  return shared
