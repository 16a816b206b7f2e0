"""The step of a chain of features, and what may be done to its estimate."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Normal
from textdiffusion.core.types import X0, Array, DenoiseFn, Key, Step, Time
from textdiffusion.processes.variance_preserving import (
  VariancePreserving,
  to_x0,
)
from textdiffusion.sampling.steps.ancestral import draw_rows

_AT_ONCE = 2**26  # distances held in memory


class LatentChain(NamedTuple):
  """x, estimate: [B, L, D], the state and the last estimate of x_0, 0 before
  the first. calls: [] of the network so far."""

  x: Array
  estimate: Array
  calls: Array


def start_latent(x: Array) -> LatentChain:
  """[B, L, D] noise -> a chain that has called no network."""
  return LatentChain(x, jnp.zeros_like(x), jnp.zeros((), jnp.int32))


def refine(
  process: VariancePreserving,
  bridge: Callable[..., Normal],
  denoise: DenoiseFn,
  fix: Callable[[Array, Time], Array],
  temperature: float = 1.0,
  self_condition: bool = False,
) -> Step[LatentChain]:
  """Estimate x_0, mend the estimate, draw x_s of the bridge.

  Args:
    bridge: (head, x_t, s, t) -> law of x_s.
    fix: (estimate, t) -> estimate.
    temperature: scales the noise of a step.
    self_condition: the network sees x_t and the last estimate, mended (Chen et
      al. 2023).
  """

  def step(key: Key, carry: LatentChain, s: Time, t: Time) -> LatentChain:
    seen = carry.x
    if self_condition:
      seen = jnp.concatenate([carry.x, carry.estimate], -1)
    head = denoise(seen, t)
    estimate = fix(to_x0(process, head, carry.x, t).value, t)
    dist = bridge(X0(estimate), carry.x, s, t)
    x = draw_rows(key, dist._replace(std=temperature * dist.std))
    return LatentChain(x.astype(carry.x.dtype), estimate, carry.calls + 1)

  return step


def clamped(table: Array, until: float) -> Callable[[Array, Time], Array]:
  """The nearest embedding in place of an estimate at times up to `until`.

  table: [K, D].
  """

  def fix(x0: Array, t: Time) -> Array:
    is_late = jnp.broadcast_to(t, x0.shape[:-1]) <= until
    return jnp.where(is_late[..., None], table[nearest(table, x0)], x0)

  return fix


def nearest(table: Array, x: Array) -> Array:
  """[..., D] -> [...] ids of the nearest rows of [K, D], a part at a time."""
  length = 0.5 * jnp.square(table).sum(-1)
  find = lambda row: jnp.argmax(row @ table.T - length, -1)
  flat = x.reshape(-1, x.shape[-1])
  some = max(1, min(len(flat), _AT_ONCE // len(table)))
  return jax.lax.map(find, flat, batch_size=some).reshape(x.shape[:-1])
