"""What a sampler is asked, and what it answers."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from textdiffusion.core.types import Array, DenoiseFn, Key, Step
from textdiffusion.samplers.base import Canvas, Frame
from textdiffusion.sampling.functions import Functions
from textdiffusion.sampling.settings import SampleConfig


def _of_tokens(carry: Any) -> Frame:
  return Frame(carry.x, carry.log_prob)


class Plan(NamedTuple):
  """What the loop runs.

  done: carry -> [B] whether a row is finished. show: carry -> what is seen of
  it, by default its tokens.
  """

  step: Step
  start: Any
  grid: Array
  done: Callable[[Any], Array]
  show: Callable[[Any], Frame] = _of_tokens


def never(carry: Any) -> Array:
  """`done` of a chain that takes every step."""
  return jnp.zeros(len(carry.x), bool)


Sampler = Callable[[Functions, Key, Canvas, SampleConfig], Plan]


class Task(NamedTuple):
  """What a reverse chain is built from.

  process: as the model has it now. denoise: filtered as config says. raw: the
  network's own. is_given: [B, L]. x: [B, L] noise where nothing is given.
  grid: [T + 1] times as config says.
  """

  process: Any
  denoise: DenoiseFn
  raw: DenoiseFn
  is_given: Array
  x: Array
  grid: Array
  config: SampleConfig


Build = Callable[[Task], Plan]
