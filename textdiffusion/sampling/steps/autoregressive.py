"""Left-to-right decoding as steps of the sampling loop."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from textdiffusion.core.distributions import Categorical
from textdiffusion.core.types import (
  Array,
  Key,
  PyTree,
  Step,
  Time,
  UserError,
)
from textdiffusion.sampling.filters import filter_causal
from textdiffusion.sampling.functions import Functions
from textdiffusion.sampling.steps.ancestral import draw_rows


class Decoding(NamedTuple):
  """A chain with the network's memory. is_done: [B] whether eos was drawn."""

  x: Array
  log_prob: Array
  calls: Array
  cache: PyTree
  is_done: Array


def left_to_right(
  model: Functions,
  key: Key,
  is_given: Array,
  bos_id: int,
  eos_id: int | None,
  temperature: float,
  top_k: int,
  top_p: float,
) -> Step[Decoding]:
  """Draws position t of every row from the tokens before it; t is an index.

  A draw depends on `key`, the row and the position only. The key of the loop
  counts steps, and the number of the step at a position depends on the shortest
  prompt of the batch.
  """
  decode = model.decode
  assert decode is not None

  def step(_: Key, carry: Decoding, s: Time, t: Time) -> Decoding:
    place = jnp.asarray(t, jnp.int32)
    column = lambda x, i: jax.lax.dynamic_slice_in_dim(x, i, 1, axis=1)
    previous = column(carry.x, jnp.maximum(place - 1, 0))
    previous = jnp.where(place == 0, bos_id, previous)
    head, cache = decode(previous, carry.cache, place)
    dist = Categorical(filter_causal(head, temperature, top_k, top_p).logits)
    key_place = jax.random.fold_in(key, place)
    drawn = draw_rows(key_place, dist).astype(carry.x.dtype)
    given, old = column(is_given, place), column(carry.x, place)
    given |= carry.is_done[:, None]  # a finished row stays as it is
    token = jnp.where(given, old, drawn)
    log_prob = jnp.where(given, 0.0, dist.log_prob(drawn))
    put = lambda x, value: jax.lax.dynamic_update_slice_in_dim(
      x, value.astype(x.dtype), place, axis=1
    )
    is_eos = (drawn == eos_id) & ~given if eos_id is not None else given & False
    return Decoding(
      put(carry.x, token),
      put(carry.log_prob, log_prob),
      carry.calls + 1,
      cache,
      carry.is_done | is_eos[:, 0],
    )

  return step


def prefill(
  model: Functions, x: Array, num_given: int, bos_id: int
) -> Decoding:
  """The carry after the first `num_given` positions, in one network call."""
  assert model.init_cache is not None and model.decode is not None
  cache = model.init_cache(*x.shape)
  calls = jnp.zeros((), jnp.int32)
  if num_given:
    first = jnp.full_like(x[:, :1], bos_id)
    inputs = jnp.concatenate([first, x[:, : num_given - 1]], axis=1)
    _, cache = model.decode(inputs, cache, jnp.zeros((), jnp.int32))
    calls += 1
  return Decoding(
    x, jnp.zeros(x.shape, jnp.float32), calls, cache, jnp.zeros(len(x), bool)
  )


def common_prefix(is_given: Array) -> int:
  """How many leading positions are given in every row; 0 under jit.

  Raises UserError where a given token stands to the right of a free one.
  """
  if isinstance(is_given, Tracer):
    return 0
  given = np.asarray(is_given)
  if (given[:, 1:] & ~given[:, :-1]).any():
    raise UserError(
      'an autoregressive model cannot fill in text before given text: it sees '
      'only what stands to the left; use a prompt, or a diffusion checkpoint'
    )
  return int(given.all(0).sum())
