"""Steps that put some of what is drawn back to noise, and so can mend it.

They keep the marginals q_s(. | x) for every x and every admissible amount, so a
network needs no other training. Remasking of absorbing processes (ReMDM, Wang
et al. 2025) and its form for any process, the Psi-samplers (Deschenaux et al.
2026): with kappa = 1 - sigma / (1 - alpha_s) they are one.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.numerics import log1m_exp, log_add, log_one_hot
from textdiffusion.core.types import (
  Array,
  DenoiseFn,
  Key,
  Step,
  Time,
  TokenHead,
  Transition,
)
from textdiffusion.processes.bridge import TokenProcess, to_posterior
from textdiffusion.processes.rank_one import RankOne
from textdiffusion.sampling.settings import Remask
from textdiffusion.sampling.steps.ancestral import (
  Chain,
  clean_logits,
  draw_rows,
)

# (s, t) -> [..., 1]: the chance that a visible token is remasked, or kappa.
Amount = Callable[[Time, Time], Array]


def most(process: RankOne, s: Time, t: Time) -> Array:
  """The largest admissible sigma, min(1, (1 - alpha_s) / alpha_t), [..., 1]."""
  noise = process.schedule(s).log_1m_alpha
  signal = process.schedule(t).log_alpha
  none = jnp.isneginf(noise)
  ratio = jnp.where(none, 0.0, noise) - signal
  return jnp.where(none, 0.0, jnp.exp(jnp.minimum(ratio, 0.0)))


def amount(process: RankOne, config: Remask) -> Amount:
  """(s, t) -> sigma, [..., 1], as `Remask` tells; `confidence` as `rescale`."""

  def chosen(s: Time, t: Time, limit: Array) -> Array | float:
    now, then = process.schedule(s), process.schedule(t)
    match config.kind:
      case 'rescale' | 'confidence':
        return config.eta * limit
      case 'loop':
        is_flat = now.log_alpha == then.log_alpha
        return jnp.where(is_flat, config.eta, 0.0)
      case 'constant':
        return config.eta * jnp.exp(now.log_1m_alpha)
      case 'forward_backward':
        return jnp.expm1(now.log_alpha - then.log_alpha)
      case 'dfm':
        scale = config.eta * jnp.exp((then.log_alpha + then.log_1m_alpha) / 4)
        step = jnp.expm1(now.log_alpha - then.log_alpha)
        # No signal at t: there is nothing to correct, and the step is infinite.
        return jnp.where(scale > 0, scale * step, 0.0)
    return config.eta

  def sigma(s: Time, t: Time) -> Array:
    limit = most(process, s, t)
    is_on = jnp.asarray(t)[..., None] <= config.switch
    return jnp.where(is_on, jnp.minimum(chosen(s, t, limit), limit), 0.0)

  return sigma


def remasking(process: RankOne, sigma: Amount) -> Transition:
  """ReMDM's step, equation 7: (head, x_t [L], s, t) -> [L, K].

  A visible token is remasked with probability sigma; a masked one stays with
  (1 - alpha_s - sigma alpha_t) / (1 - alpha_t), else is drawn from the head.
  sigma = 0 is the bridge. Given tokens, t = 0, cannot be remasked, and in the
  last interval, s = 0, whatever is masked is drawn.
  """

  def transition(head: TokenHead, xt: Array, s: Time, t: Time) -> Categorical:
    now, then = process.schedule(s), process.schedule(t)
    is_last = jnp.asarray(s)[..., None] <= 0
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
    is_mask_state = process.is_mask(jnp.arange(process.num_states))
    return Categorical(jnp.where(is_mask_state, mask, token))

  return transition


def by_confidence(process: RankOne, sigma: Amount, chain: Chain) -> Amount:
  """sigma times softmax(-p) over the drawn tokens of a row.

  p: the probability of each token when it was drawn, which the chain keeps.
  """

  def shared(s: Time, t: Time) -> Array:
    is_drawn = ~process.is_mask(chain.x) & (jnp.asarray(t) > 0)
    logits = jnp.where(is_drawn, -jnp.exp(chain.log_prob), -jnp.inf)
    some = is_drawn.any(-1, keepdims=True)
    share = jax.nn.softmax(jnp.where(some, logits, 0.0))
    return sigma(s, t) * jnp.where(is_drawn, share, 0.0)[..., None]

  return shared


def remask(
  process: RankOne,
  denoise: DenoiseFn,
  sigma: Amount,
  confident: bool = False,
  finish: Callable[[Transition], Transition] = lambda transition: transition,
) -> Step[Chain]:
  """The step of `remasking`; log_prob is the network's, 0 at masks.

  Args:
    confident: whether `by_confidence` shares sigma out.
    finish: wraps the transition, such as `greedy_at_end`.
  """

  def step(key: Key, carry: Chain, s: Time, t: Time) -> Chain:
    share = by_confidence(process, sigma, carry) if confident else sigma
    head = denoise(carry.x, t)
    dist = finish(remasking(process, share))(head, carry.x, s, t)
    x = draw_rows(key, dist).astype(carry.x.dtype)
    clean = Categorical(clean_logits(process, head, carry.x, t))
    is_mask = process.is_mask(x)
    log_prob = clean.log_prob(jnp.where(is_mask, process.mask_id == 0, x))
    log_prob = jnp.where(x == carry.x, carry.log_prob, log_prob)
    log_prob = jnp.where(is_mask, 0.0, log_prob).astype(jnp.float32)
    return Chain(x, log_prob, carry.calls + 1)

  return step


def psi(process: TokenProcess, kappa: Amount) -> Transition:
  """kappa bridge + (1 - kappa) q_s(. | p(x | z)): (head, x_t, s, t) -> [L, K].

  The second part draws x as if s were 0 and adds the noise of s anew: a
  predictor and a corrector in one step. Any process and head.
  """

  def transition(head: TokenHead, xt: Array, s: Time, t: Time) -> Categorical:
    # A given token, t = 0, stays even where a schedule has noise there.
    kept = jnp.where(jnp.asarray(t)[..., None] > 0, kappa(s, t), 1.0)
    posterior = to_posterior(process, head, xt, t)
    anew = process.marginal(posterior.logits, s).log_probs
    bridge = process.bridge(head, xt, s, t).log_probs
    return Categorical(log_add(jnp.log(kept) + bridge, jnp.log1p(-kept) + anew))

  return transition


def kappa_of(process: RankOne, sigma: Amount) -> Amount:
  """kappa = 1 - sigma / (1 - alpha_s), at least 0; [..., 1].

  sigma above 1 - alpha_s, which remasking admits, has no kappa.
  """

  def kappa(s: Time, t: Time) -> Array:
    noise = jnp.exp(process.schedule(s).log_1m_alpha)
    some = noise > 0
    ratio = sigma(s, t) / jnp.where(some, noise, 1.0)
    return jnp.where(some, jnp.maximum(1 - ratio, 0.0), 1.0)

  return kappa
