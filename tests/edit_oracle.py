"""A tabular law of sequences of any length up to a few, and its exact heads.

Ids 0 and 1 are tokens, 2 is the mask and 3 the padding. What may lie behind a
state is enumerated: `Candidates` are all pairs of a text (with its source, if
any) and an aligned state z, with the prior probability of what is pending.
"""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.types import Edits, Growth
from textdiffusion.processes.edit import pack

A, B, MASK, PAD, STATES = 0, 1, 2, 3, 4


def padded(rows, capacity):
  """Lists of ids -> [N, capacity]."""
  return jnp.asarray(
    [list(row) + [PAD] * (capacity - len(row)) for row in rows], jnp.int32
  )


class Law:
  """p over sequences of 0 ... capacity tokens. ids: [N, C]; log_p: [N]."""

  def __init__(self, capacity=3, seed=0):
    rows = [
      row
      for n in range(capacity + 1)
      for row in itertools.product((A, B), repeat=n)
    ]
    self.capacity, self.ids = capacity, padded(rows, capacity)
    logits = np.random.default_rng(seed).normal(size=len(rows))
    self.log_p = jax.nn.log_softmax(jnp.asarray(logits))

  @property
  def p(self):
    return np.exp(np.asarray(self.log_p))

  @property
  def entropy(self):
    return float(-(jnp.exp(self.log_p) * self.log_p).sum())

  def index(self, x):
    """[..., C] ids -> rows of `ids`; -1 for what is none."""
    table = np.full(STATES**self.capacity, -1)
    table[code(np.asarray(self.ids))] = np.arange(len(self.ids))
    return table[code(np.asarray(x))]


def code(x):
  """[..., C] ids -> a number."""
  return (x * STATES ** np.arange(x.shape[-1])).sum(-1)


class Candidates(NamedTuple):
  """text: [N, C] clean. z: [N, C] aligned. log_prior: [N] log p of the text and
  its source. x, place: z packed."""

  text: jax.Array
  z: jax.Array
  log_prior: jax.Array
  x: jax.Array
  place: jax.Array


def candidates(law, source_length=0, masks=False):
  """Everything that may be: texts x sources x what is pending (and masked)."""
  found, log_prior = set(), {}
  sources = list(itertools.product((A, B), repeat=source_length))
  for text, log_p in zip(np.asarray(law.ids), np.asarray(law.log_p), strict=1):
    for source in sources:
      start = list(source) + [PAD] * (law.capacity - source_length)
      choices = [
        {int(a), int(b)} | ({MASK} if masks and a != PAD else set())
        for a, b in zip(text, start, strict=True)
      ]
      for z in itertools.product(*choices):
        key = tuple(map(int, text)), tuple(start), z
        found.add(key)
        log_prior[key] = log_p - np.log(len(sources))
  keys = sorted(found)
  text, starts, z = (jnp.asarray([k[i] for k in keys]) for i in range(3))
  x, place = pack(z, PAD)
  prior = jnp.asarray([log_prior[k] for k in keys])
  return Candidates(text, z, prior, x, place), starts


def log_chance_of(c, starts, log_pending, log_made, log_masked=-jnp.inf):
  """[N] log q(z | text, source) from the chances of one token's states.

  A place whose source is its text is certain to be that.
  """
  each = jnp.where(
    c.z == MASK, log_masked, jnp.where(c.z == c.text, log_made, log_pending)
  )
  return jnp.where(starts == c.text, 0.0, each).sum(-1)


def heads(c, law, log_weight, kind):
  """Exact head of all STATES^C rows: tables [S, C] and [S, C, K].

  log_weight: [N] of candidates, prior times chance of z.
  """
  states = jnp.asarray(
    list(itertools.product(range(STATES), repeat=law.capacity)), jnp.int32
  )[:, ::-1]  # in the order of `code`
  fits = (c.x[None] == states[:, None]).all(-1)
  logits = jnp.where(fits, log_weight[None], -jnp.inf)
  weight = jnp.where(fits.any(-1, keepdims=True), jax.nn.softmax(logits), 0)
  weight = jnp.where(jnp.isnan(weight), 0.0, weight)

  def at_places(values):
    """[N, C] bool of pairs -> [S, C, K], expected counts by place and token."""
    where = jax.nn.one_hot(c.place, law.capacity)  # off the row: nowhere
    what = jax.nn.one_hot(c.text, STATES)
    counts = jnp.einsum('nc,ncp,nck->npk', values.astype(float), where, what)
    return jnp.einsum('sn,npk->spk', weight, counts)

  is_clean, is_there = c.text != PAD, c.z != PAD
  missing = at_places(is_clean & ~is_there)
  if kind is Growth:
    tokens = at_places(c.z == MASK)
    return Growth(jnp.log(tokens), jnp.log(missing.sum(-1)))
  replaced = at_places(is_clean & is_there & (c.z != c.text))
  deleted = at_places(is_there & ~is_clean)
  return Edits(
    jnp.log(missing.sum(-1)),
    jnp.log(deleted.sum(-1)),
    jnp.log(replaced.sum(-1)),
    jnp.log(missing),
    jnp.log(replaced),
  )


def look_up(table, x):
  """Heads [S, ...] of rows [B, C]; what is impossible is given any token."""
  place = (x * STATES ** jnp.arange(x.shape[-1])[None]).sum(-1)
  head = jax.tree.map(lambda leaf: leaf[place], table)

  def proper(leaf):
    if leaf.ndim < 3:
      return leaf
    dead = jnp.isneginf(leaf).all(-1, keepdims=True)
    return jnp.where(dead, 0.0, leaf)

  return jax.tree.map(proper, head)
