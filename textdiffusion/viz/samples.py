"""Turns samples that kept their trace into traces to display."""

from collections.abc import Mapping

import numpy as np

from textdiffusion.core.types import UserError, Vocab, leading
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.samplers.base import Canvas, Samples
from textdiffusion.viz.trace import Trace


def traces_of(
  samples: Samples,
  canvas: Canvas,
  tokenizer: Tokenizer,
  settings: Mapping[str, object] | None = None,
  title: str = 'sample',
) -> list[Trace]:
  """Returns one trace per row.

  Args:
    samples: samples with a trace.
    canvas: the canvas that they were sampled on.
    tokenizer: the tokenizer.
    settings: settings to print below the trace.
    title: title of the traces.

  Raises:
    UserError: the samples have no trace.
  """
  if samples.trace is None or samples.times is None:
    raise UserError('these samples kept no trace: ask for them with trace=True')
  facts = {**(settings or {}), 'network calls': int(samples.calls)}
  frames = np.asarray(samples.trace.ids)  # [T + 1, B, L]
  log_prob = np.asarray(samples.trace.log_prob)
  is_given = np.asarray(canvas.is_given)
  grows = samples.is_given is not None
  hidden = _hidden(frames, is_given, tokenizer.vocab, grows)
  return [
    Trace(
      [tokenizer.pieces(ids) for ids in frames[:, row]],
      log_prob[:, row].tolist(),
      hidden[:, row].tolist(),
      is_given[row].tolist(),
      np.asarray(samples.times).tolist(),
      f'{title} {row + 1}' if len(is_given) > 1 else title,
      facts,
      ids=frames[:, row].tolist(),
      text=tokenizer.decode(frames[-1, row]),
    )
    for row in range(len(is_given))
  ]


def _hidden(
  frames: np.ndarray, is_given: np.ndarray, vocab: Vocab, grows: bool
) -> np.ndarray:
  """Returns [T + 1, B, L] whether a place holds no token yet.

  Args:
    frames: [T + 1, B, L] ids of each frame.
    is_given: [B, L] whether a token was given.
    vocab: sizes and special ids.
    grows: whether sequences grow, so that padding is not part of the text.
  """
  at = lambda ids: np.isin(frames, [i for i in ids if i is not None])
  is_masked = at([vocab.mask_id])
  if grows:  # Padding to the right of the text has not been inserted yet.
    return is_masked | at([vocab.pad_id])
  is_unwritten = at([vocab.eos_id, vocab.bos_id])[0] | is_given
  if is_masked[0].any() or not is_unwritten.all():  # Noise is displayed.
    return is_masked
  # A left-to-right sampler writes one more place per frame after the prompt.
  count = leading(is_given) + np.arange(len(frames))[:, None]
  return np.arange(frames.shape[-1]) >= count[..., None]
