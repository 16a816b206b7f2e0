"""One entry for every sampler: a canvas in, filled-in rows out."""

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.types import (
  Array,
  Key,
  UserError,
  Vocab,
  leading,
)
from textdiffusion.model import Model
from textdiffusion.processes.bridge import TokenProcess
from textdiffusion.samplers.base import Samples
from textdiffusion.sampling import loop
from textdiffusion.sampling.filters import filter_denoiser
from textdiffusion.sampling.functions import Functions, functions_of
from textdiffusion.sampling.plan import (
  Build,
  Canvas,
  Plan,
  Sampler,
  Task,
  never,
)
from textdiffusion.sampling.samplers import SAMPLERS
from textdiffusion.sampling.settings import OF_GRIDS, OF_LATENTS, SampleConfig
from textdiffusion.sampling.steps.autoregressive import (
  common_prefix,
  left_to_right,
  prefill,
)

T = TypeVar('T')


def generate(
  sampler: Sampler,
  model: Model | Functions,
  key: Key,
  canvas: Canvas,
  config: SampleConfig,
  trace: bool = False,
  block: int = 0,
) -> Samples:
  """Fills in a canvas: [B, L] -> [B, L]. Pure; jit it at the caller.

  A trace keeps ids and log-probabilities of every step, never logits. block:
  so many tokens at a time, left to right; nobody sees those after.
  """
  if isinstance(model, Model):
    model = functions_of(model)
  if block:
    return _by_blocks(sampler, model, key, canvas, config, trace, block)
  plan = sampler(model, stream(key, 'start'), canvas, config)
  if plan.done is never:
    config.refuse(('stop_early',), 'no row is finished before the last step')
  key_loop = stream(key, 'loop')
  if config.stop_early and not trace:
    carry, steps = loop.sample_until(
      key_loop, plan.step, plan.start, plan.grid, plan.done
    )
    return _samples(plan, carry, steps)
  keep = plan.show if trace else lambda carry: None
  carry, frames = loop.sample(key_loop, plan.step, plan.start, plan.grid, keep)
  steps = jnp.full(len(carry.x), len(plan.grid) - 1)
  if not trace:
    return _samples(plan, carry, steps)
  frames = jax.tree.map(
    lambda first, rest: jnp.concatenate([first[None], rest]),
    plan.show(plan.start),
    frames,
  )
  # Where positions have times of their own, the noisiest is told.
  times = plan.grid.reshape(len(plan.grid), -1).max(-1)
  return _samples(plan, carry, steps)._replace(trace=frames, times=times)


def _by_blocks(
  sampler: Sampler,
  model: Functions,
  key: Key,
  canvas: Canvas,
  config: SampleConfig,
  trace: bool,
  size: int,
) -> Samples:
  """`generate` of one block after another, from the end of each row's prompt
  on; compiled once."""
  assert model.within is not None
  begin, shortest = leading(canvas.is_given)[:, None], 0
  if not isinstance(canvas.is_given, Tracer):
    shortest = int(leading(np.asarray(canvas.is_given)).min())
  within, places = model.within, jnp.arange(canvas.ids.shape[1])

  def advance(ids: Array, number: Array) -> tuple[Array, Samples]:
    start = begin + number * size
    is_seen = places < start + size
    here = Canvas(ids, canvas.is_given | (places < start))
    narrow = within(is_seen.astype(jnp.int32))
    key_block = jax.random.fold_in(key, number)
    made = generate(sampler, narrow, key_block, here, config, trace)
    is_made = is_seen & (places >= start)
    log_prob = jnp.where(is_made, made.log_prob, 0.0)
    ids = jnp.where(is_made, made.ids, ids)
    return ids, made._replace(log_prob=log_prob)

  numbers = jnp.arange(-(-(len(places) - shortest) // size))
  ids, made = jax.lax.scan(advance, canvas.ids.astype(jnp.int32), numbers)
  total = lambda x: x.sum(0)
  joined = lambda x: x.reshape(-1, *x.shape[2:])
  return Samples(
    ids,
    total(made.log_prob),
    total(made.steps),
    total(made.calls),
    jax.tree.map(joined, made.trace),
    jax.tree.map(joined, made.times),
  )


def _samples(plan: Plan, carry: Any, steps: Array) -> Samples:
  """What is told of the last state."""
  grown = {name: getattr(carry, name, None) for name in ('is_given', 'refused')}
  return Samples(*plan.show(carry), steps, carry.calls, **grown)


def diffusion_sampler(
  process: TokenProcess,
  samplers: Mapping[str, Build] = SAMPLERS,
  num_steps: int = 0,
) -> Sampler:
  """Reverse chains of a token process; prompts and infilling are exact.

  Args:
    process: as at the start of training; `refresh` gives it as it is now.
    samplers: what `sample.sampler` may name.
    num_steps: T of a process in discrete time, whose grids take i / T only.
  """

  def plan(
    model: Functions, key: Key, canvas: Canvas, config: SampleConfig
  ) -> Plan:
    build = named(samplers, config.sampler)
    config.refuse(OF_LATENTS, 'this method has tokens, not features')
    now: Any = process.refresh(model.facts)
    _refuse_given_masks(canvas, now.mask_id)
    denoise = filter_denoiser(
      now, model.denoise, config.temperature, config.top_k, config.top_p
    )
    rows, length = canvas.ids.shape
    keys = row_keys(key, jnp.arange(rows))
    prior = now.prior()
    noise = jax.vmap(lambda k: prior.sample(k, (length,)))(keys)
    x = jnp.where(canvas.is_given, canvas.ids, noise).astype(jnp.int32)
    return build(
      Task(
        now,
        denoise,
        model.denoise,
        canvas.is_given,
        x,
        config.times(num_steps),
        config,
      )
    )

  return plan


def named(samplers: Mapping[str, T], name: str) -> T:
  """The sampler of that name; raises UserError where there is none."""
  if name in samplers:
    return samplers[name]
  near = difflib.get_close_matches(name, samplers, n=2)
  raise UserError(
    f'sample.sampler={name!r}: must be one of {", ".join(samplers)}'
    + (f' (did you mean {" or ".join(near)}?)' if near else '')
  )


def _refuse_given_masks(canvas: Canvas, mask_id: int | None) -> None:
  """A given mask has no law to condition on. Under jit it cannot be seen."""
  if mask_id is None or any(isinstance(x, Tracer) for x in canvas):
    return
  if (np.asarray(canvas.is_given) & (np.asarray(canvas.ids) == mask_id)).any():
    raise UserError(
      f'a given token is the mask (id {mask_id}): mark it free instead'
    )


def autoregressive_sampler(vocab: Vocab) -> Sampler:
  """Left to right with a cache; a prompt common to all rows is one call."""
  assert vocab.bos_id is not None
  bos_id, eos_id = vocab.bos_id, vocab.eos_id

  def plan(
    model: Functions, key: Key, canvas: Canvas, config: SampleConfig
  ) -> Plan:
    if model.decode is None:
      raise UserError('left-to-right decoding needs a causal method')
    config.refuse(OF_GRIDS, 'left to right there is no grid')
    blank = eos_id if eos_id is not None else bos_id
    x = jnp.where(canvas.is_given, canvas.ids, blank).astype(jnp.int32)
    num_given = common_prefix(canvas.is_given)
    step = left_to_right(
      model,
      key,
      canvas.is_given,
      bos_id,
      eos_id if config.stop_early else None,
      config.temperature,
      config.top_k,
      config.top_p,
    )
    start = prefill(model, x, num_given, bos_id)
    grid = jnp.arange(num_given, x.shape[1] + 1, dtype=jnp.float32)
    return Plan(step, start, grid, lambda carry: carry.is_done)

  return plan
