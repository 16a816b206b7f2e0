"""One entry for every sampler: a canvas in, filled-in rows out."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from textdiffusion.core.keys import row_keys, stream
from textdiffusion.core.types import Array, Key, Model, Step, UserError, Vocab
from textdiffusion.processes.bridge import TokenProcess
from textdiffusion.sampling import loop
from textdiffusion.sampling.filters import filter_denoiser
from textdiffusion.sampling.steps.ancestral import (
  at_times_of,
  reveal,
  start_chain,
  walk,
)
from textdiffusion.sampling.steps.autoregressive import (
  common_prefix,
  left_to_right,
  prefill,
)
from textdiffusion.sampling.steps.first_hitting import Events, first_hitting
from textdiffusion.schedules import grids, times


@dataclasses.dataclass(frozen=True)
class SampleConfig:
  """How to sample.

  steps: denoising steps of a grid. grid: where they lie in time.
  sampler: `skipping` is `ancestral` without the calls that change nothing;
    `first_hitting` reveals one token a call. Ignored by autoregression.
  temperature, top_p, top_k: see `filters.filtered`.
  stop_early: rows freeze, and the loop ends, when all is revealed (or, left
    to right, when the end of the document is drawn).
  length: tokens in a row where nothing else says it; 0: as in training.
  """

  steps: int = 64
  grid: Literal['cosine', 'uniform'] = 'cosine'
  sampler: Literal['ancestral', 'skipping', 'first_hitting'] = 'ancestral'
  temperature: float = 1.0
  top_p: float = 1.0
  top_k: int = 0
  stop_early: bool = False
  length: int = 0

  def __post_init__(self) -> None:
    for name, is_right, rule in (
      ('steps', self.steps >= 1, 'at least 1'),
      ('temperature', self.temperature >= 0, 'at least 0'),
      ('top_p', 0 < self.top_p <= 1, 'in (0, 1]'),
      ('top_k', self.top_k >= 0, 'at least 0'),
      ('length', self.length >= 0, 'at least 0'),
    ):
      if not is_right:
        raise UserError(f'sample.{name}={getattr(self, name)}: must be {rule}')


class Canvas(NamedTuple):
  """What is to be filled in. ids, is_given: [B, L]; free ids do not matter."""

  ids: Array
  is_given: Array


class Frame(NamedTuple):
  """What a trace keeps of a state. ids, log_prob: [B, L]."""

  ids: Array
  log_prob: Array


class Plan(NamedTuple):
  """What the loop runs. done: carry -> [B] whether a row is finished."""

  step: Step
  start: Any
  grid: Array
  done: Callable[[Any], Array]


class Samples(NamedTuple):
  """ids, log_prob: [B, L]. steps: [B] taken by each row. calls: [] of the
  network. trace: frames [T + 1, B, L], the start first. times: [T + 1]. Of
  texts that grow, is_given: [B, L] where the given tokens came to stand, and
  refused: [B] insertions that found no room."""

  ids: Array
  log_prob: Array
  steps: Array
  calls: Array
  trace: Frame | None = None
  times: Array | None = None
  is_given: Array | None = None
  refused: Array | None = None


Sampler = Callable[[Model, Key, Canvas, SampleConfig], Plan]


def generate(
  sampler: Sampler,
  model: Model,
  key: Key,
  canvas: Canvas,
  config: SampleConfig,
  trace: bool = False,
) -> Samples:
  """Fills in a canvas: [B, L] -> [B, L]. Pure; jit it at the caller.

  A trace keeps ids and log-probabilities of every step, never logits.
  """
  plan = sampler(model, stream(key, 'start'), canvas, config)
  key_loop = stream(key, 'loop')
  frame = lambda carry: Frame(carry.x, carry.log_prob)
  if config.stop_early and not trace:
    carry, steps = loop.sample_until(
      key_loop, plan.step, plan.start, plan.grid, plan.done
    )
    return _samples(carry, steps)
  keep = frame if trace else lambda carry: None
  carry, frames = loop.sample(key_loop, plan.step, plan.start, plan.grid, keep)
  steps = jnp.full(len(carry.x), len(plan.grid) - 1)
  if not trace:
    return _samples(carry, steps)
  frames = jax.tree.map(
    lambda first, rest: jnp.concatenate([first[None], rest]),
    frame(plan.start),
    frames,
  )
  return _samples(carry, steps)._replace(trace=frames, times=plan.grid)


def _samples(carry: Any, steps: Array) -> Samples:
  """What is told of the last state."""
  grown = {name: getattr(carry, name, None) for name in ('is_given', 'refused')}
  return Samples(carry.x, carry.log_prob, steps, carry.calls, **grown)


def diffusion_sampler(of: TokenProcess, num_steps: int = 0) -> Sampler:
  """Reverse chains of a token process; prompts and infilling are exact.

  num_steps: T of a process in discrete time, whose grids take i / T only.
  """

  def plan(
    model: Model, key: Key, canvas: Canvas, config: SampleConfig
  ) -> Plan:
    process: Any = of.refresh(model)
    if config.sampler != 'ancestral' and not process.is_absorbing:
      raise UserError(
        f'sample.sampler={config.sampler!r} needs an absorbing process: use '
        "'ancestral'"
      )
    _refuse_given_masks(canvas, process.mask_id)
    denoise = filter_denoiser(
      process, model.denoise, config.temperature, config.top_k, config.top_p
    )
    rows, length = canvas.ids.shape
    keys = row_keys(key, jnp.arange(rows))
    noise = jax.vmap(lambda k: process.prior().sample(k, (length,)))(keys)
    x = jnp.where(canvas.is_given, canvas.ids, noise).astype(jnp.int32)
    start: Any = start_chain(x)
    grid = {'cosine': grids.cosine, 'uniform': grids.uniform}[config.grid](
      config.steps
    )
    if num_steps:
      _refuse_finer_grids(config, num_steps)
      grid = times.snapped(grid, num_steps)
    done = lambda carry: ~process.is_mask(carry.x).any(-1)
    if config.sampler == 'first_hitting':
      noise_at_1 = process.schedule(1.0).log_1m_alpha[0]
      start = Events(*start, jnp.full(rows, noise_at_1))
      step = first_hitting(process, denoise, canvas.is_given)
      return Plan(step, start, grids.uniform(length), done)
    if process.is_absorbing:
      step = reveal(process, denoise, skip=config.sampler == 'skipping')
    else:
      step = walk(process.bridge, denoise)
      done = lambda carry: jnp.zeros(rows, bool)
    return Plan(at_times_of(step, canvas.is_given), start, grid, done)

  return plan


def _refuse_finer_grids(config: SampleConfig, num_steps: int) -> None:
  if config.steps > num_steps:
    raise UserError(
      f'sample.steps={config.steps}: the process has {num_steps} steps only; '
      'lower it or train with more'
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
    model: Model, key: Key, canvas: Canvas, config: SampleConfig
  ) -> Plan:
    del key  # nothing is drawn before the first step
    if model.decode is None:
      raise UserError('left-to-right decoding needs model.attend=causal')
    blank = eos_id if eos_id is not None else bos_id
    x = jnp.where(canvas.is_given, canvas.ids, blank).astype(jnp.int32)
    num_given = common_prefix(canvas.is_given)
    step = left_to_right(
      model,
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
