"""Attention: who may see whom, and the kernels that compute it."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.types import Array

Implementation = Literal['auto', 'xla', 'cudnn', 'splash']


Attend = Literal['bidirectional', 'causal', 'block_causal']


def static_mask(length: int, attend: Attend, block_size: int) -> np.ndarray:
  """[L, L] bool, what every row allows.

  block_causal sees its own block whole and all earlier ones.
  """
  if attend == 'bidirectional':
    return np.ones((length, length), bool)
  block = np.arange(length) // (block_size if attend == 'block_causal' else 1)
  return block[:, None] >= block[None]


def attention_mask(
  length: int,
  attend: Attend,
  block_size: int,
  segments: Array | None,
  extra: Array | None,
) -> Array | None:
  """[B or 1, 1, L, L], True where the query (row) may see the key; or None.

  Args:
    length: L.
    attend, block_size: as in `static_mask`.
    segments: [B, L]; tokens see their own segment only, and padding (0) none.
    extra: [L, L] or [B, L, L], taken in addition.
  """
  masks = []
  if attend != 'bidirectional':
    masks.append(jnp.asarray(static_mask(length, attend, block_size))[None])
  if segments is not None:
    same = segments[:, :, None] == segments[:, None]
    # Padding sees itself, else its softmax has no term; nobody reads it.
    itself = jnp.eye(length, dtype=bool)[None]
    masks.append((same & (segments > 0)[:, None]) | itself)
  if extra is not None:
    masks.append(extra if extra.ndim == 3 else extra[None])
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
  if kind == 'xla' and jax.default_backend() == 'cpu':
    return _plain(q, k, v, mask)
  implementation: Any = kind
  return jax.nn.dot_product_attention(
    q, k, v, mask=mask, implementation=implementation
  )


def resolve(
  implementation: Implementation, dtype: Any, length: int, head_size: int
) -> str:
  """What `auto` means here: splash on TPU, cuDNN on GPU in 16 bits, or XLA."""
  if implementation != 'auto':
    return implementation
  backend = jax.default_backend()
  if backend == 'tpu' and length % 128 == 0 and head_size % 64 == 0:
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
  visible: np.ndarray,
  interpret: bool = False,
) -> Array:
  """Splash attention, the TPU kernel: no [L, S] array in memory.

  Args:
    q, k, v: as in `attend`.
    segments: [B, L], tokens see their own segment only.
    visible: [L, S] bool, the same for all rows; blocks without True are
      never computed.
    interpret: run the kernel on any backend, slowly.
  """
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as kernels,
  )
  from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_mask as masks,
  )

  heads, repeat = q.shape[2], q.shape[2] // k.shape[2]
  one = (
    masks.FullMask(visible.shape) if visible.all() else masks.NumpyMask(visible)
  )
  kernel = kernels.make_splash_mha(
    masks.MultiHeadMask([one] * heads),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  front = lambda x: x.transpose(0, 2, 1, 3)
  k, v = (jnp.repeat(front(x), repeat, axis=1) for x in (k, v))
  q = front(q) * q.shape[-1] ** -0.5
  if segments is None:
    return front(jax.vmap(kernel)(q, k, v))
  ids = kernels.SegmentIds(segments, segments)
  return front(jax.vmap(kernel)(q, k, v, ids))
