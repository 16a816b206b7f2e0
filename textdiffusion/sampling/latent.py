"""Reverse chains of features: Gaussian noise on embeddings."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from textdiffusion.core.distributions import Categorical, Normal
from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import X0, Array, Key, Time, UserError
from textdiffusion.processes.variance_preserving import VariancePreserving
from textdiffusion.sampling.functions import Functions
from textdiffusion.sampling.generate import named
from textdiffusion.sampling.plan import Canvas, Frame, Plan, Sampler, never
from textdiffusion.sampling.settings import OF_GRIDS, SampleConfig
from textdiffusion.sampling.steps.ancestral import at_times_of
from textdiffusion.sampling.steps.latent import (
  LatentChain,
  Reverse,
  clamped,
  drawn_token,
  nearest_token,
  refine,
  solver,
  start_latent,
)


def _ancestral(p: VariancePreserving, config: SampleConfig) -> Reverse:
  variance = config.latent.variance
  return lambda x0, carry, s, t: p.bridge(
    X0(x0), carry.x, s, t, variance=variance
  )


def _ddim(p: VariancePreserving, config: SampleConfig) -> Reverse:
  eta = config.latent.eta
  return lambda x0, carry, s, t: p.bridge(X0(x0), carry.x, s, t, eta)


def _renoise(p: VariancePreserving, config: SampleConfig) -> Reverse:
  def reverse(x0: Array, carry: LatentChain, s: Time, t: Time) -> Normal:
    fresh = p.marginal(x0, s)
    is_clean = (jnp.broadcast_to(t, x0.shape[:-1]) <= 0)[..., None]
    return fresh._replace(mean=jnp.where(is_clean, carry.x, fresh.mean))

  return reverse


Build = Callable[[VariancePreserving, SampleConfig], Reverse]
LATENT_SAMPLERS: dict[str, Build] = {
  'ancestral': _ancestral,
  'ddim': _ddim,
  'dpm_solver': lambda p, config: solver(p),
  'renoise': _renoise,
}
_OF_TOKENS = (*OF_GRIDS, 'stop_early')


def latent_sampler(
  process: VariancePreserving,
  num_steps: int,
  self_condition: bool = False,
  samplers: Mapping[str, Build] = LATENT_SAMPLERS,
  grid: Callable[[SampleConfig, int], Array] | None = None,
) -> Sampler:
  """From noise to embeddings to tokens. Given tokens are clean at every step.

  process: of noise, as at the start of training. num_steps: T; times are of
  the grid i / T.
  self_condition: the network is shown its last estimate too. samplers: what
  `sample.sampler` may name. grid: (config, L) -> times [steps + 1, L] of each
  position; by default the config's own, of all alike.
  """

  def plan(
    model: Functions, key: Key, canvas: Canvas, config: SampleConfig
  ) -> Plan:
    embedder = model.embedder
    now = process.refresh(model.facts)
    reverse = named(samplers, config.sampler)(now, config)
    config.refuse(_OF_TOKENS, 'this method has features, not tokens')
    latent = config.latent
    if latent.to != 'drawn':
      why = 'no token is drawn of features but by latent.to=drawn'
      config.refuse(('top_p', 'top_k'), why)
    elif not latent.clamp:
      raise UserError(
        'sample.latent.to=drawn with sample.latent.clamp=0: nothing is '
        'clamped; set sample.latent.clamp=1'
      )
    clean = embedder.embed(canvas.ids)
    keys = row_keys(key, jnp.arange(len(clean)))
    noise = jax.vmap(lambda k: jax.random.normal(k, clean.shape[1:]))(keys)
    is_given = canvas.is_given[..., None]
    x = jnp.where(is_given, clean, config.temperature * noise)
    fix = lambda key, head, x0, t: x0
    if latent.clamp:
      read = nearest_token(model)
      if latent.to == 'drawn':
        read = drawn_token(model, config.top_k, config.top_p)
      fix = clamped(model, read, latent.clamp)
    step = refine(
      now,
      reverse,
      model,
      fix,
      config.temperature,
      self_condition,
    )
    return Plan(
      at_times_of(step, canvas.is_given),
      start_latent(x),
      grid(config, clean.shape[1]) if grid else config.times(num_steps),
      never,
      _read(embedder.logits, canvas),
    )

  return plan


def _read(
  round_: Callable[[Array], Array], canvas: Canvas
) -> Callable[[LatentChain], Frame]:
  """Tokens that the last estimate is nearest to; of the start, x itself."""

  def show(carry: LatentChain) -> Frame:
    dist = Categorical(
      round_(jnp.where(carry.calls == 0, carry.x, carry.estimate))
    )
    ids = jnp.argmax(dist.logits, -1)
    log_prob = dist.log_prob(ids).astype(jnp.float32)
    return Frame(
      jnp.where(canvas.is_given, canvas.ids, ids).astype(jnp.int32),
      jnp.where(canvas.is_given, 0.0, log_prob),
    )

  return show
