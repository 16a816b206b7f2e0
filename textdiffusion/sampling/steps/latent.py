"""The step of a chain of features, and what may be done to its estimate."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical, Normal
from textdiffusion.core.keys import stream
from textdiffusion.core.numerics import by_parts
from textdiffusion.core.types import (
  X0,
  Array,
  Key,
  Posterior,
  Step,
  Time,
)
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  estimate_of,
)
from textdiffusion.sampling.filters import filtered
from textdiffusion.sampling.functions import Functions
from textdiffusion.sampling.steps.ancestral import draw_rows


class LatentChain(NamedTuple):
  """x, estimate: [B, L, D], the state and the last estimate of x_0, 0 before
  the first. time: [B, L] of which it was. calls: [] of the network so far."""

  x: Array
  estimate: Array
  time: Array
  calls: Array


# (key, head, estimate of x_0, t) -> what is taken for it.
Fix = Callable[[Key, Any, Array, Time], Array]
# (key, head, estimates [B, L, D]) -> ids [B, L].
ReadToken = Callable[[Key, Any, Array], Array]
# (estimate of x_0 at t, chain, s, t) -> law of x_s.
Reverse = Callable[[Array, LatentChain, Time, Time], Normal]


def start_latent(x: Array) -> LatentChain:
  """[B, L, D] noise -> a chain that has called no network."""
  time = jnp.ones(x.shape[:-1], x.dtype)
  return LatentChain(x, jnp.zeros_like(x), time, jnp.zeros((), jnp.int32))


def refine(
  process: VariancePreserving,
  reverse: Reverse,
  model: Functions,
  fix: Fix,
  temperature: float = 1.0,
  self_condition: bool = False,
) -> Step[LatentChain]:
  """Estimate x_0, mend the estimate, draw x_s of the bridge.

  Args:
    reverse: of the step.
    fix: of the estimate.
    temperature: scales the noise of a step.
    self_condition: the network sees x_t and the last estimate, mended (Chen et
      al. 2023).
  """

  def step(key: Key, carry: LatentChain, s: Time, t: Time) -> LatentChain:
    seen = carry.x
    if self_condition:
      seen = jnp.concatenate([carry.x, carry.estimate], -1)
    head = model.denoise(seen, t)
    estimate = estimate_of(process, model.embedder, head, carry.x, t).value
    estimate = fix(stream(key, 'clamp'), head, estimate, t)
    dist = reverse(estimate, carry, s, t)
    x = draw_rows(key, dist._replace(std=temperature * dist.std))
    x, time = x.astype(carry.x.dtype), jnp.broadcast_to(t, carry.time.shape)
    return LatentChain(
      x, estimate, time.astype(carry.time.dtype), carry.calls + 1
    )

  return step


def solver(process: VariancePreserving) -> Reverse:
  """DPM-Solver++ of second order, multistep (Lu et al. 2022, algorithm 2).

  With lambda the log of signal over noise and h its step, the estimate is taken
  as linear in lambda through this one and the last: x0 + h / (2 h_last) (x0 -
  last). The first step and the last one, h infinite, are of first order, which
  is DDIM; a clean x_t stays.
  """

  def reverse(estimate: Array, carry: LatentChain, s: Time, t: Time) -> Normal:
    at = lambda time: _half_log_snr(process, time)
    now, then, last = at(s), at(t), at(carry.time)
    is_first = (carry.calls == 0) | jnp.isinf(now) | (then <= last)
    ratio = (now - then) / jnp.where(is_first, 1.0, 2 * (then - last))
    bent = estimate + jnp.where(is_first, 0.0, ratio) * (
      estimate - carry.estimate
    )
    return process.bridge(X0(bent), carry.x, s, t, eta=0.0)

  return reverse


def _half_log_snr(process: VariancePreserving, t: Time) -> Array:
  """lambda = log(sqrt(alpha) / sqrt(1 - alpha)): [..., 1]."""
  level = process.schedule(t)
  return 0.5 * (level.log_alpha - level.log_1m_alpha)


def clamped(model: Functions, read: ReadToken, until: float) -> Fix:
  """The embedding of a token in place of an estimate at times up to `until`."""

  def fix(key: Key, head: Any, x0: Array, t: Time) -> Array:
    is_late = jnp.broadcast_to(t, x0.shape[:-1]) <= until
    return jnp.where(
      is_late[..., None], model.embedder.embed(read(key, head, x0)), x0
    )

  return fix


def nearest_token(model: Functions) -> ReadToken:
  """The one whose embedding is nearest; of the simplex, its nearest corner."""
  table, logits = model.embedder.table, model.embedder.logits
  if table is not None:
    return lambda key, head, x0: nearest(table, x0)
  return lambda key, head, x0: jnp.argmax(logits(x0), -1)


def drawn_token(model: Functions, top_k: int, top_p: float) -> ReadToken:
  """One of p(w | x_t) if the head says it, else of p(w | estimate); see
  `filters.filtered`."""
  round_ = model.embedder.logits

  def read(key: Key, head: Any, x0: Array) -> Array:
    logits = head.logits if isinstance(head, Posterior) else round_(x0)
    return draw_rows(key, Categorical(filtered(logits, 1.0, top_k, top_p)))

  return read


def nearest(table: Array, x: Array) -> Array:
  """[..., D] -> [...] ids of the nearest rows of [K, D], a part at a time."""
  length = 0.5 * jnp.square(table).sum(-1)
  find = lambda row: jnp.argmax(row @ table.T - length, -1)
  return by_parts(find, x, len(table))
