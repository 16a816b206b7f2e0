"""A loss of logits that never stand whole in memory.

A few tokens of each row at a time: their logits, their losses, and nothing is
kept but those; the backward pass computes the logits again. One product more
with the head, and of 128,000 tokens some GB less a row of 4,096.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.types import Array, PyTree, UserError
from textdiffusion.nn import layout


def by_chunks(
  said: Callable[..., PyTree], hidden: Array, rows: PyTree, size: int
) -> PyTree:
  """said(hidden, rows) of `size` tokens at a time, all rows together.

  Args:
    said: (hidden [B, n, D], rows) -> a tree of [B, n], a token at a time.
    hidden: [B, L, D].
    rows: a tree of [B, L, ...]; what has no L tokens is passed as it is.
    size: n, a divisor of L; where tokens lie along `sequence`, of each shard.

  Raises UserError where it is none.
  """
  length, shards = hidden.shape[1], layout.size_of('sequence')
  if length % (size * shards):
    raise UserError(
      f'model.loss_chunk={size}: must divide the {length} tokens of a row'
      + (f', and those of each of {shards} shards' if shards > 1 else '')
    )
  # A chunk takes its share of every shard, so that none of them waits.
  share = size // shards if size % shards == 0 else size
  size = share * shards
  count = length // size
  leaves, tree = jax.tree.flatten((hidden, rows))
  is_token = [jnp.ndim(x) > 1 and x.shape[1] == length for x in leaves]

  def split(x: Array) -> Array:
    x = x.reshape(len(x), shards, count, share, *x.shape[2:])
    x = jnp.moveaxis(x, 2, 0)
    return x.reshape(count, len(x[0]), size, *x.shape[4:])

  def joined(x: Array) -> Array:
    x = x.reshape(count, x.shape[1], shards, share, *x.shape[3:])
    x = jnp.moveaxis(x, 0, 2)
    return x.reshape(len(x), length, *x.shape[4:])

  @jax.checkpoint
  def one(parts: list[Array]) -> PyTree:
    found = iter(parts)
    full = [
      next(found) if is_part else x for x, is_part in zip(leaves, is_token)
    ]
    hidden, rows = jax.tree.unflatten(tree, full)
    return said(layout.rows(hidden), rows)

  parts: Any = [split(x) for x, is_part in zip(leaves, is_token) if is_part]
  return jax.tree.map(joined, jax.lax.map(one, parts))
