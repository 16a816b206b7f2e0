"""Losses in chunks of tokens, so that not all logits are in memory at once.

For each chunk the logits and then the losses are computed, and only the losses
are kept. The backward pass computes the logits again. This costs one more
product with the head, and saves several GB for a row of 4,096 tokens with a
vocabulary of 128,000.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.types import Array, PyTree, UserError
from textdiffusion.nn import layout


def map_chunks(
  loss: Callable[..., PyTree], hidden: PyTree, rows: PyTree, size: int
) -> PyTree:
  """Computes loss(hidden, rows) for `size` tokens of all rows at a time.

  Args:
    loss: maps the hidden states and rows of n tokens to a tree of [B, n], where
      each value depends only on the inputs of its own token.
    hidden: a tree of [B, L, ...] hidden states.
    rows: a tree of [B, L, ...]; leaves without L tokens are passed unchanged.
    size: tokens per chunk, n. It must divide L, or the tokens of each shard if
      tokens are split along `sequence`.

  Raises:
    UserError: `size` is not such a divisor.
  """
  length = jax.tree.leaves(hidden)[0].shape[1]
  shards = layout.size_of('sequence')
  if length % (size * shards):
    raise UserError(
      f'model.loss_chunk={size}: must divide the {length} tokens of a row'
      + (f', and those of each of {shards} shards' if shards > 1 else '')
    )
  # A chunk contains an equal share of every shard, so that no shard is idle.
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
