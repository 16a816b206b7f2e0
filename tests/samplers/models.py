"""Models whose heads are known, and what tests of samplers share."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from textdiffusion.core.numerics import one_hot
from textdiffusion.core.types import Cavity
from textdiffusion.model import Model, RawHead, Trained, bind
from textdiffusion.nn.network import (
  Full,
  Network,
  Traits,
  View,
  cache_mask,
  empty_cache,
  write_at,
)
from textdiffusion.samplers import Canvas, generate

KEY, FULL = jax.random.key(0), Full()


def canvas_of(rows, *given):
  """The same row `rows` times; given: ids of a row, None where free."""
  ids = jnp.asarray([[0 if x is None else x for x in given]] * rows)
  return Canvas(ids, jnp.asarray([[x is not None for x in given]] * rows))


def run(model, canvas, sampler, trace=False, key=KEY):
  """`generate`, compiled for one call."""
  call = lambda key: generate(model, canvas, key, sampler, trace)
  return jax.jit(call)(key)


@dataclasses.dataclass(frozen=True)
class HeadModel(Model):
  """A model whose head is a function of x and t."""

  process: Any
  head: Any  # (x [B, n], t) -> typed head
  facts: Any = None
  view: View = View()

  def hidden(self, x, t, cache=None):
    return self.head(x, t), None

  def read(self, hidden, x, t):
    return hidden

  def with_view(self, **changes):
    return dataclasses.replace(self, view=self.view._replace(**changes))

  def new_cache(self, rows, length):
    raise NotImplementedError


def exact(law, process=None):
  """The exact denoiser of a law over all its sequences."""
  return HeadModel(process or law.process, law.denoise)


class Wiring(NamedTuple):
  """The part of a method that a model needs."""

  process: Any
  head: Any
  structure: Any
  state: Any = None


def network_model(network, params, process, structure=FULL, kind=Cavity):
  """A network with parameters, bound; kind: the type of its head."""
  wiring = Wiring(process, RawHead(kind), structure)
  return bind(wiring, network, Trained(params))


@dataclasses.dataclass(frozen=True, eq=False)
class LawNetwork(Network):
  """p(x_i | the tokens that position i may attend to), of a law of masked text.

  The keys of its cache are the tokens, so that a cache is exact.
  """

  law: Any
  is_blind: bool = True  # False attends to padding too

  @property
  def traits(self):
    return Traits(width=self.law.process.num_states, per_token_time=True)

  def init(self, key):
    return ()

  def new_cache(self, rows, length):
    return empty_cache((rows, length, 1, 1), jnp.int32, 1, False)

  def hidden(self, params, x, t, view, cache=None):
    every = jnp.broadcast_to(jnp.arange(x.shape[1]), x.shape)
    places = every if view.positions is None else view.positions
    tokens, where = x, places
    if cache is None:
      allowed = view.structure.allowed(every[:, :, None], every[:, None])
      if view.segments is not None and self.is_blind:
        allowed &= view.segments[:, :, None] == view.segments[:, None]
    else:
      keys = write_at(cache.k[0], x[..., None, None], places)
      cache = cache._replace(k=(keys,))
      allowed = cache_mask(cache, view.structure, places)
      tokens = keys[..., 0, 0]
      where = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    law, ids = self.law, self.law.ids
    fits = (ids[:, where] == tokens[None]) | law.process.is_mask(tokens)[None]
    is_barred = (allowed[None] & ~fits[:, :, None]).any(-1)  # [N, B, q]
    log_p = jnp.where(is_barred, -jnp.inf, law.log_p[:, None, None])
    is_token = one_hot(ids[:, places], law.process.num_states)
    logits = jnp.where(is_token, log_p[..., None], -jnp.inf)
    return jax.nn.logsumexp(logits, axis=0), cache

  def read(self, params, hidden):
    return hidden


def attending(law, structure=FULL, **changes):
  """The exact denoiser of a law of masked text under a rule of attention."""
  network = LawNetwork(law, **changes)
  return network_model(network, (), law.process, structure)
