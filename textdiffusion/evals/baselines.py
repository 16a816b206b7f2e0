"""Models without a network, to set beside a trained one."""

import math
from collections.abc import Iterable

import numpy as np

_END = 256  # the end of a document


def byte_bigram(
  train: Iterable[str], heldout: Iterable[str], pseudo_count: float = 0.1
) -> float:
  """Bits per held-out byte of a bigram model over bytes.

  A document ends with a symbol of its own, whose bits count but whose place
  does not, as a language model's end-of-document token.

  Args:
    train, heldout: documents.
    pseudo_count: added to each of the 257 x 257 counts.
  """
  counts = np.full((257, 257), pseudo_count)
  for text in train:
    ids = _with_ends(text)
    counts += np.bincount(
      ids[:-1] * 257 + ids[1:], minlength=257 * 257
    ).reshape(257, 257)
  bits = -np.log(counts / counts.sum(1, keepdims=True)) / math.log(2)
  total, num_bytes = 0.0, 0
  for text in heldout:
    ids = _with_ends(text)
    total += bits[ids[:-1], ids[1:]].sum()
    num_bytes += len(ids) - 2
  return float(total / num_bytes)


def _with_ends(text: str) -> np.ndarray:
  """UTF-8 bytes between two end symbols."""
  body = np.frombuffer(text.encode('utf-8', 'replace'), np.uint8)
  return np.concatenate([[_END], body.astype(np.int64), [_END]])
