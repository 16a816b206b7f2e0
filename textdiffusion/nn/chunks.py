"""Losses of a few tokens at a time, so that logits never stand whole in memory.

The logits of a chunk of tokens are computed, then their losses, and only the
losses are kept; the backward pass computes the logits again. That is one more
product with the head, and for 128,000 tokens some GB less for a row of 4,096.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.types import Array, PyTree, UserError
from textdiffusion.nn import layout


def by_chunks(
  loss: Callable[..., PyTree], hidden: PyTree, rows: PyTree, size: int
) -> PyTree:
  """loss(hidden, rows), computed `size` tokens at a time for all rows together.

  Args:
    loss: (hidden, rows of n tokens) -> a tree of [B, n], where each token
      depends on its own inputs only.
    hidden: a tree of [B, L, ...].
    rows: a tree of [B, L, ...]; leaves without L tokens are passed unchanged.
    size: n, a divisor of L; where tokens lie along `sequence`, of the tokens of
      each shard.

  Raises:
    UserError: `size` is no such divisor.
  """
  length = jax.tree.leaves(hidden)[0].shape[1]
  shards = layout.size_of('sequence')
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
    return loss(jax.tree.map(layout.rows, hidden), rows)

  parts: Any = [split(x) for x, is_part in zip(leaves, is_token) if is_part]
  return jax.tree.map(joined, jax.lax.map(one, parts))
