"""Attention masks, and the kernels that compute attention."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from textdiffusion.core.types import Array
from textdiffusion.nn import layout
from textdiffusion.nn.network import Full, Structure

Implementation = Literal['auto', 'xla', 'cudnn', 'splash']


def attention_mask(
  length: int, structure: Structure, segments: Int[Array, 'B L'] | None
) -> Bool[Array, '#B 1 L L'] | None:
  """Builds the mask of a structure and of segments.

  Args:
    length: tokens in a row, L.
    structure: which tokens attend to which.
    segments: document numbers; tokens attend to their own document only, and
      padding (0) only to itself.

  Returns:
    A mask that is True where the query (row) may attend to the key; or None if
    every token attends to every token.
  """
  masks = []
  if segments is not None:
    same = segments[:, :, None] == segments[:, None]
    # Padding attends to itself, as a softmax needs at least one term. No other
    # token attends to it.
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
  q: Float[Array, 'B L H D'],
  k: Float[Array, 'B S G D'],
  v: Float[Array, 'B S G D'],
  mask: Bool[Array, '#B 1 #L S'] | None,
  kind: str = 'xla',
) -> Float[Array, 'B L H D']:
  """Computes scaled dot-product attention.

  Args:
    q: queries.
    k: keys, where G divides H (grouped queries).
    v: values.
    mask: True where the query may attend to the key.
    kind: a result of `resolve`, except splash.
  """
  if kind == 'xla' and layout.platform() == 'cpu':
    return _cpu_attention(q, k, v, mask)
  implementation: Any = kind
  return jax.nn.dot_product_attention(
    q, k, v, mask=mask, implementation=implementation
  )


def resolve(
  implementation: Implementation, dtype: jnp.dtype, shape: tuple[int, ...]
) -> str:
  """Chooses the attention kernel.

  `auto` is splash on TPU, cuDNN on GPU in 16 bits, and XLA otherwise. Splash is
  used only if the mesh splits rows, heads and blocks of 128 tokens evenly, even
  if `implementation` is `splash`.

  Args:
    implementation: the configured kernel.
    dtype: type of the computation.
    shape: shape of the queries, [B, L, H, D].
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


def _cpu_attention(
  q: Float[Array, 'B L H D'],
  k: Float[Array, 'B S G D'],
  v: Float[Array, 'B S G D'],
  mask: Bool[Array, '#B 1 #L S'] | None,
) -> Float[Array, 'B L H D']:
  """Computes `attend` in a form that is fast on CPU.

  Heads come before tokens, so that products are batched matrix products whose
  gradients need no further transpose. The division by the sum of the softmax
  comes after the product with v, because the gradient of jax.nn.softmax takes
  half as long again as this one (notes/log.md).
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
  q: Float[Array, 'B L H D'],
  k: Float[Array, 'B S G D'],
  v: Float[Array, 'B S G D'],
  segments: Int[Array, 'B L'] | None,
  structure: Structure,
  interpret: bool = False,
) -> Float[Array, 'B L H D']:
  """Computes splash attention, the TPU kernel that stores no [L, S] array.

  On a mesh a device holds its share of the batch, of the heads and of the
  queries, and all keys of its sequences.

  Args:
    q: queries as in `attend`.
    k: keys as in `attend`.
    v: values as in `attend`.
    segments: document numbers, where S = L; tokens attend to their own document
      only. None for one document.
    structure: which pairs may attend, the same for every sequence of the batch;
      blocks in which no pair may are never computed.
    interpret: whether to interpret the kernel, which is slow but runs on any
      backend.
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
  if is_full:  # The mask of each shard is the same, so nothing is split.
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
  # The compiler cannot split a kernel, so each shard runs its own part.
  spec = jax.sharding.PartitionSpec
  own = jax.sharding.NamedSharding(mesh, spec('tensor', 'sequence'))
  key_spec = spec(layout.BATCH, 'tensor')
  query_spec = spec(layout.BATCH, 'tensor', 'sequence')
  id_spec: Any = None
  if ids is not None:
    both: Any = spec(layout.BATCH, 'sequence'), spec(layout.BATCH)
    id_spec = kernels.SegmentIds(*both)
  split = jax.shard_map(
    run,
    mesh=mesh,
    in_specs=(
      jax.tree.map(lambda _: spec(), kernel)
      if is_full
      else kernel.manual_sharding_spec(own),
      query_spec,
      key_spec,
      key_spec,
      id_spec,
    ),
    out_specs=query_spec,
    check_vma=False,
  )
  return front(split(kernel, q, k, v, ids))


def _blocks(shape: tuple[int, ...], shards: int) -> Any:
  """Returns the largest tiles of up to 512 that divide the part of a shard."""
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
