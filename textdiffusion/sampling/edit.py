"""Samplers of texts of any length up to the row's."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import (
  Array,
  DenoiseFn,
  Key,
  Step,
  UserError,
)
from textdiffusion.processes.edit import EditPath, MaskedInsertion
from textdiffusion.sampling.filters import filtered
from textdiffusion.sampling.functions import Functions
from textdiffusion.sampling.plan import Canvas, Plan, Sampler, never
from textdiffusion.sampling.settings import OF_GRIDS, OF_LATENTS, SampleConfig
from textdiffusion.sampling.steps.edit import Draft, edit, grow, start_draft

MakeStep = Callable[[Any, DenoiseFn, Callable[[Array], Array]], Step[Draft]]


def growth_sampler(process: MaskedInsertion) -> Sampler:
  """FlexMDM: given tokens stay; masks are inserted where the canvas is free.

  A free run of the canvas is a gap for any number of tokens, none included, as
  far as the row has room. With nothing but gaps between the given tokens
  samples follow the law of texts given such a subsequence; where neighbours
  are kept together the network's counts are those of a text that might have
  more between them, so the law is approximate.
  """

  def plan(
    model: Functions, key: Key, canvas: Canvas, config: SampleConfig
  ) -> Plan:
    del key  # the text begins with what is given
    if config.steps < 2:
      raise UserError(
        f'sample.steps={config.steps}: inserting and revealing needs at least 2'
      )
    start = start_draft(*canvas[:2], process.pad_id)
    made = _plan(process, grow, model, start, canvas, config, config.steps - 1)
    end = jnp.zeros_like(made.grid[:1])
    return made._replace(grid=jnp.concatenate([made.grid, end]))

  return plan


def edit_sampler(process: EditPath) -> Sampler:
  """Edit Flows from its source. A canvas is as in `growth_sampler`; a source of
  tokens stands in place of given text, so the two exclude each other."""

  def plan(
    model: Functions, key: Key, canvas: Canvas, config: SampleConfig
  ) -> Plan:
    start = start_draft(*canvas[:2], process.pad_id)
    if process.source_length:
      given = canvas.is_given
      if isinstance(given, Tracer) or np.asarray(given).any():
        raise UserError(
          'prompts and infilling need an empty source: train with '
          '--set=method.source_length=0'
        )
      rows, capacity = canvas.ids.shape
      keys = row_keys(key, jnp.arange(rows))
      x = jax.vmap(lambda k: process.source(k, capacity))(keys)
      start = start._replace(x=x.astype(start.x.dtype))
    return _plan(process, edit, model, start, canvas, config, config.steps)

  return plan


def _plan(
  process: Any,
  make_step: MakeStep,
  model: Functions,
  start: Draft,
  canvas: Canvas,
  config: SampleConfig,
  num_steps: int,
) -> Plan:
  """What both have in common."""
  if config.sampler != 'ancestral':
    raise UserError(
      f'sample.sampler={config.sampler!r} needs rows of a fixed length: use '
      "'ancestral'"
    )
  _refuse_given_specials(canvas, process.special_ids)
  reshape = lambda logits: filtered(
    logits, config.temperature, config.top_k, config.top_p
  )
  config.refuse(OF_GRIDS, 'texts that grow have no such step')
  config.refuse(OF_LATENTS, 'this method has tokens, not features')
  grid = dataclasses.replace(config, steps=num_steps).times()
  step = make_step(process, model.denoise, reshape)
  # A text may grow until t = 0, so no row is finished before.
  return Plan(step, start, grid, never)


def _refuse_given_specials(canvas: Canvas, ids: tuple[int, ...]) -> None:
  """Masks and padding are no text to keep. Under jit they cannot be seen."""
  if any(isinstance(x, Tracer) for x in canvas[:2]):
    return
  wrong = np.asarray(canvas.is_given) & np.isin(np.asarray(canvas.ids), ids)
  if wrong.any():
    bad = np.asarray(canvas.ids)[wrong][0]
    raise UserError(
      f'a given token is the mask or padding (id {bad}): mark it free instead'
    )
