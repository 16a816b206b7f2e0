"""A `Model` as the few functions that the samplers of this folder call."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from textdiffusion.core.types import (
  Array,
  DenoiseFn,
  Embedder,
  Facts,
  Head,
  PyTree,
  Time,
  X,
)
from textdiffusion.model import Model
from textdiffusion.nn.network import Causal, commit


class Functions(NamedTuple):
  """The functions of a model that a sampler calls.

  Attributes:
    denoise: (x_t, t) -> head.
    init_cache: (rows, length) -> cache; None where the model is not causal.
    decode: (ids [B, n], cache, start) -> (head, cache): the heads of positions
      start .. start + n - 1 of all rows; None where the model is not causal.
    facts: from which a process is refreshed.
    within: segments [B, L] -> the functions of the model where tokens attend
      to their own segment only.
  """

  denoise: DenoiseFn
  init_cache: Callable[[int, int], PyTree] | None = None
  decode: Callable[[Array, PyTree, Array], tuple[Head, PyTree]] | None = None
  facts: Facts = Facts()
  within: Callable[[Array], 'Functions'] | None = None

  @property
  def embedder(self) -> Embedder:
    """The embeddings of a model over features."""
    embedder = self.facts.embedder
    assert embedder is not None and embedder.is_input
    return embedder


def functions_of(model: Model) -> Functions:
  """Returns the functions of a model."""

  def denoise(x: X, t: Time) -> Head:
    return model(x, t).head

  def decode(ids: Array, cache: PyTree, start: Array) -> tuple[Head, PyTree]:
    places = start + jnp.arange(ids.shape[1])[None]
    places = jnp.broadcast_to(places, ids.shape)
    # Segments are of whole rows, not of the tokens that are decoded.
    here = model.with_view(positions=places, segments=None)
    head, cache = here(ids, 0.0, cache)
    return head, commit(cache, places, places >= 0)

  def within(segments: Array) -> Functions:
    return functions_of(model.with_view(segments=segments))

  is_causal = isinstance(model.view.structure, Causal)
  return Functions(
    denoise,
    model.new_cache if is_causal else None,
    decode if is_causal else None,
    model.facts,
    within,
  )
