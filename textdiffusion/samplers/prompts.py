"""Text -> the canvas that a sampler fills in.

`The <mask:6> statement` asks for six tokens between two given pieces of text.
Where padding is part of the rows that a network was trained on, a canvas ends
as they do: `is_padded` adds the end of the text and the padding after it.
"""

import re

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from textdiffusion.core.memory import check_memory
from textdiffusion.core.types import UserError
from textdiffusion.data.coverage import (
  Coverage,
  measure,
  warn,
  warn_unknown,
)
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.samplers.base import Canvas

_SPAN = re.compile(r'<mask(?::([^<>]*))?>')


def blank(num_rows: int, length: int) -> Canvas:
  """A canvas with nothing given: [num_rows, length]."""
  _check_size(num_rows, length)
  shape = (num_rows, length)
  return Canvas(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))


def continuation(
  tokenizer: Tokenizer, prompt: str, num_rows: int, length: int
) -> Canvas:
  """`prompt`, then free tokens up to `length`.

  Raises UserError where the prompt leaves no room.
  """
  warn_unknown(tokenizer, [prompt], 'the prompt')
  _check_size(num_rows, length)
  ids = tokenizer.encode(prompt)
  if len(ids) >= length:
    raise UserError(
      f'the prompt has {len(ids)} tokens and the row {length}: nothing is left '
      'to generate; shorten it or raise --length'
    )
  given = np.concatenate([ids, np.full(length - len(ids), -1)])
  return _canvas(given, num_rows)


def infilling(
  tokenizer: Tokenizer,
  template: str,
  num_rows: int,
  length: int,
  is_padded: bool = False,
) -> Canvas:
  """A template with spans `<mask:N>` (`<mask>` is one token) -> canvas.

  The row is as long as the template or, if `is_padded`, has `length` tokens.
  Raises UserError for a template without a span, for a span of no tokens and
  for one that exceeds `length`.
  """
  _check_size(num_rows, length)
  if not _SPAN.search(template):
    raise UserError(
      f'the template {template!r} has no span to fill in, such as <mask:6>'
    )
  parts, known, end = [], Coverage(), 0
  for span in _SPAN.finditer(template):
    count = span[1] if span[1] is not None else '1'
    if not count.isdecimal() or int(count) < 1:
      raise UserError(
        f'the span {span[0]} needs a number of tokens of at least 1, '
        'as in <mask:6>'
      )
    if int(count) > length:
      raise UserError(
        f'the span {span[0]} is longer than the row of {length} tokens; '
        'shorten it or raise --length'
      )
    text = template[end : span.start()]
    ids = tokenizer.encode_after(text) if end else tokenizer.encode(text)
    known = known.plus(measure(tokenizer, text, ids))
    parts += [ids, np.full(int(count), -1)]
    end = span.end()
  parts.append(tokenizer.encode_after(template[end:]))
  known = known.plus(measure(tokenizer, template[end:], parts[-1]))
  warn(known, tokenizer, 'the template')
  given = np.concatenate(parts)
  if len(given) > length:
    raise UserError(
      f'the template has {len(given)} tokens, spans included, and the row '
      f'{length}; shorten it or raise --length'
    )
  return _canvas(_ended(tokenizer, given, length, is_padded), num_rows)


def noised(
  tokenizer: Tokenizer,
  ids: Int[np.ndarray, ' N'],
  share: float,
  length: int,
  is_padded: bool = False,
  seed: int = 0,
) -> Canvas:
  """A text some of whose tokens are masked, to be written anew: [1, L].

  It is what a masked diffusion makes of the text at the time when `share` of
  the signal is gone, so denoising draws from the texts that it may have been.

  Args:
    tokenizer: of the network.
    ids: the text before the edit.
    share: the probability that a token is masked; at least one is.
    length: tokens in a row.
    is_padded: as in `infilling`.
    seed: of the draws.

  Raises:
    UserError: the text is empty or longer than a row, or the share is not in
      (0, 1].
  """
  if not 0 < share <= 1:
    raise UserError(f'a share of {share} of the tokens: must be in (0, 1]')
  if not 0 < len(ids) <= length:
    raise UserError(
      f'the text to edit has {len(ids)} tokens and the row {length}: it must '
      'have at least one and fit'
    )
  drawn = np.random.default_rng(seed).random(len(ids))
  given = np.where((drawn < share) | (drawn == drawn.min()), -1, ids)
  return _canvas(_ended(tokenizer, given, length, is_padded), 1)


def _ended(
  tokenizer: Tokenizer,
  given: Int[np.ndarray, ' N'],
  length: int,
  is_padded: bool,
) -> Int[np.ndarray, ' L']:
  """A text's ids with its end and the padding after it, if there is room."""
  vocab = tokenizer.vocab
  if not is_padded or len(given) >= length:
    return given
  tail = np.asarray([] if vocab.eos_id is None else [vocab.eos_id], int)
  padding = length - len(given) - len(tail)
  assert vocab.pad_id is not None
  return np.concatenate([given, tail, np.full(padding, vocab.pad_id)])


def _check_size(num_rows: int, length: int) -> None:
  """Raises UserError for more tokens than memory holds or int32 counts."""
  count = num_rows * length
  subject, mend = (
    f'{num_rows} row(s) of {length} tokens',
    'lower --num or --length',
  )
  if count >= 2**31:
    raise UserError(f'{subject}: must be below 2**31 in all; {mend}')
  # Ids as NumPy's, JAX's and the samples' int32, and log-probabilities.
  check_memory(16 * count, subject, mend)


def _canvas(given: Int[np.ndarray, ' L'], num_rows: int) -> Canvas:
  """Ids, -1 where free -> the same row `num_rows` times."""
  rows = jnp.asarray(np.tile(given.astype(np.int32), (num_rows, 1)))
  return Canvas(jnp.maximum(rows, 0), rows >= 0)
