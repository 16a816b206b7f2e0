"""The steps of `samplers.edit` around a denoiser."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from textdiffusion.core.keys import row_keys
from textdiffusion.core.types import Array, DenoiseFn, Key, Step, Time
from textdiffusion.processes.edit import EditPath, MaskedInsertion
from textdiffusion.samplers import edit as edits
from textdiffusion.samplers.drafts import (  # noqa: F401
  Draft,
  count,
  fit,
  open_gaps,
  put,
  splice,
  start_draft,
)

Filter = Callable[[Array], Array]  # logits [..., K] -> logits [..., K]


def grow(
  p: MaskedInsertion, denoise: DenoiseFn, reshape: Filter
) -> Step[Draft]:
  """See `samplers.edit.insert_and_unmask`."""
  return _step(edits.insert_and_unmask, p, denoise, reshape)


def edit(p: EditPath, denoise: DenoiseFn, reshape: Filter) -> Step[Draft]:
  """See `samplers.edit.edit`."""
  return _step(edits.edit, p, denoise, reshape)


def _step(
  make: Callable, p: Any, denoise: DenoiseFn, reshape: Filter
) -> Step[Draft]:
  def step(key: Key, carry: Draft, s: Time, t: Time) -> Draft:
    keys = row_keys(key, jnp.arange(len(carry.x)))
    return make(p, denoise(carry.x, t), reshape, keys, carry, s, t)

  return step
