"""Guidance of heads and of reverse steps (D-CFG and D-CBG, Schiff et al. 2024).

weight 0 is unconditional, 1 conditional, above 1 sharper (Ho & Salimans 2022).
Absorbing processes are guided at the head, others at the reverse step: there a
mix of heads is not a mix of steps.
"""

from collections.abc import Callable

from textdiffusion.core.distributions import Categorical, extrapolate
from textdiffusion.core.types import (
  Array,
  DenoiseFn,
  Dist,
  Head,
  Time,
  Transition,
  X,
)


def guide_head(cond: DenoiseFn, uncond: DenoiseFn, weight: float) -> DenoiseFn:
  """Guidance of predictions, for absorbing and Gaussian processes."""

  def denoise(x: X, t: Time) -> Head:
    return extrapolate(cond(x, t), uncond(x, t), weight)

  return denoise


def guide_bridge(transition: Transition, weight: float) -> Transition:
  """Guidance of reverse steps; the denoiser returns (cond, uncond) heads."""

  def guided(heads: tuple[Head, Head], xt: X, s: Time, t: Time) -> Dist:
    cond, uncond = (transition(head, xt, s, t) for head in heads)
    return extrapolate(cond, uncond, weight)

  return guided


def guide_by_classifier(
  transition: Transition,
  log_prob: Callable[[X, Time], Array],
  weight: float,
) -> Transition:
  """Reverse steps times p(label | x_t with one token replaced)^weight.

  log_prob: (x_t, t) -> [L, K], log p(label | x_t with state k at place i).
  """

  def guided(head: Head, xt: X, s: Time, t: Time) -> Dist:
    dist = transition(head, xt, s, t)
    assert isinstance(dist, Categorical)
    return Categorical(dist.log_probs + weight * log_prob(xt, t))

  return guided
