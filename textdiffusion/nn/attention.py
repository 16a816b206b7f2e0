"""Attention: masks, and the kernels that compute it."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from textdiffusion.core.types import Array
from textdiffusion.nn import layout
from textdiffusion.nn.network import Full, Structure

Implementation = Literal['auto', 'xla', 'cudnn', 'splash']


def attention_mask(
  length: int, structure: Structure, segments: Array | None
) -> Array | None:
  """[B or 1, 1, L, L], True where the query (row) may attend to the key.

  Args:
    length: L.
    structure: which tokens attend to which.
    segments: [B, L]; tokens attend to their own segment only, padding (0) to
      itself only.

  Returns:
    The mask, or None where every token attends to every token.
  """
  masks = []
  if segments is not None:
    same = segments[:, :, None] == segments[:, None]
    # Padding attends to itself, else its softmax has no term; no token
    # attends to it.
    itself = jnp.eye(length, dtype=bool)[None]
    masks.append((same & (segments > 0)[:, None]) | itself)
  if not isinstance(structure, Full):
    masks.append(jnp.asarray(structure.dense(length)))
  if not masks:
    return None
  mask = masks[0]
  for other in masks[1:]:
    mask = mask & other
  return mask[:, None]


def attend(
  q: Array, k: Array, v: Array, mask: Array | None, kind: str = 'xla'
) -> Array:
  """Scaled dot-product attention: q [B, L, H, D] -> [B, L, H, D].

  Args:
    k, v: [B, S, G, D], G dividing H (grouped queries).
    mask: [B or 1, 1, L, S], True where the query may see the key.
    kind: of `resolve`, but splash.
  """
  if kind == 'xla' and layout.platform() == 'cpu':
    return _plain(q, k, v, mask)
  implementation: Any = kind
  return jax.nn.dot_product_attention(
    q, k, v, mask=mask, implementation=implementation
  )


def resolve(
  implementation: Implementation, dtype: Any, shape: tuple[int, ...]
) -> str:
  """What `auto` means here: splash on TPU, cuDNN on GPU in 16 bits, or XLA.

  shape: [B, L, H, D] of the queries. Splash is taken where the mesh splits
  rows, heads and blocks of 128 tokens evenly, asked for or not.
  """
  rows, length, heads, size = shape
  batch = layout.size_of('data') * layout.size_of('fsdp')
  is_even = rows % batch == 0 and heads % layout.size_of('tensor') == 0
  is_even &= length % (128 * layout.size_of('sequence')) == 0
  if implementation != 'auto':
    is_uneven = implementation == 'splash' and not is_even
    return 'xla' if is_uneven else implementation
  backend = layout.platform()
  if backend == 'tpu' and is_even and size % 64 == 0:
    return 'splash'
  if backend == 'gpu' and dtype in (jnp.bfloat16, jnp.float16):
    return 'cudnn'
  return 'xla'


def _plain(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
  """Softmax attention with heads in front, so that CPU products are batched
  matrix products and their gradients need no further transpose.

  The sum of the softmax divides after the product with v: the gradient of
  jax.nn.softmax takes half again as long as this one (notes/log.md).
  """
  batch, length, heads, dim = q.shape
  groups = k.shape[2]
  q = q.reshape(batch, length, groups, heads // groups, dim)
  q = q.transpose(0, 2, 3, 1, 4) * dim**-0.5  # [B, G, R, L, D]
  k, v = k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)
  scores = jnp.matmul(q, k[:, :, None]).astype(jnp.float32)
  if mask is not None:
    scores = jnp.where(mask[:, :, None], scores, -jnp.inf)
  highest = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
  weights = jnp.exp(scores - highest)
  total = weights.sum(-1, keepdims=True)
  out = jnp.matmul(weights.astype(v.dtype), v[:, :, None]) / total
  out = out.astype(v.dtype).transpose(0, 3, 1, 2, 4)
  return out.reshape(batch, length, heads, dim)


def splash(
  q: Array,
  k: Array,
  v: Array,
  segments: Array | None,
  structure: Structure,
  interpret: bool = False,
) -> Array:
  """Splash attention, the TPU kernel: no [L, S] array in memory.

  On a mesh each shard has its rows, its heads and its part of the queries, and
  all keys of a row.

  Args:
    q, k, v: as in `attend`.
    segments: [B, L], tokens attend to their own segment only.
    structure: a rule, the same for all rows; blocks in which nothing is
      allowed are never computed.
    interpret: run the kernel on any backend, slowly.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  heads, repeat = q.shape[2], q.shape[2] // k.shape[2]
  across, along = layout.size_of('tensor'), layout.size_of('sequence')
  shape = q.shape[1], k.shape[1]
  is_full = isinstance(structure, Full)
  if is_full:  # all shards' parts are equal, and the kernel splits none of it
    rows, heads = shape[0] // along, heads // across
    one, shards = masks.FullMask((rows, shape[1])), (1, 1)
  else:
    visible = structure.dense(shape[0])[0]
    one, shards = masks.NumpyMask(visible), (across, along)
  kernel = kernels.make_splash_mha(
    masks.MultiHeadMask([one] * heads),
    block_sizes=_blocks(shape, along),
    head_shards=shards[0],
    q_seq_shards=shards[1],
    interpret=interpret,
  )
  front = lambda x: x.transpose(0, 2, 1, 3)
  k, v = (jnp.repeat(front(x), repeat, axis=1) for x in (k, v))
  q = front(q) * q.shape[-1] ** -0.5
  ids = None
  if segments is not None:
    ids = kernels.SegmentIds(segments, segments)
  run = lambda kernel, *args: jax.vmap(kernel)(*args)
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return front(run(kernel, q, k, v, ids))
  # The compiler cannot split a kernel: each shard runs its own part.
  spec = jax.sharding.PartitionSpec
  own = jax.sharding.NamedSharding(mesh, spec('tensor', 'sequence'))
  of_keys = spec(layout.BATCH, 'tensor')
  of_queries = spec(layout.BATCH, 'tensor', 'sequence')
  of_ids: Any = None
  if ids is not None:
    both: Any = spec(layout.BATCH, 'sequence'), spec(layout.BATCH)
    of_ids = kernels.SegmentIds(*both)
  split = jax.shard_map(
    run,
    mesh=mesh,
    in_specs=(
      jax.tree.map(lambda _: spec(), kernel)
      if is_full
      else kernel.manual_sharding_spec(own),
      of_queries,
      of_keys,
      of_keys,
      of_ids,
    ),
    out_specs=of_queries,
    check_vma=False,
  )
  return front(split(kernel, q, k, v, ids))


def _blocks(shape: tuple[int, ...], shards: int) -> Any:
  """The largest tiles of up to 512 that divide what a shard has."""
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )

  size = lambda length: next(
    n for n in (512, 256, 128) if n == 128 or not length % n
  )
  rows, columns = size(shape[0] // shards), size(shape[1])
  return kernels.BlockSizes(
    block_q=rows,
    block_kv=columns,
    block_q_dkv=rows,
    block_kv_dkv=columns,
    block_q_dq=rows,
    block_kv_dq=columns,
  )
