"""From a trained model to text: samples and infilled sentences."""

from typing import NamedTuple

import jax
import numpy as np

from textdiffusion.core.keys import stream
from textdiffusion.core.memory import compile_within
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.methods.method import Method
from textdiffusion.model import Trained, bind
from textdiffusion.nn.network import Network
from textdiffusion.sampling.generate import (
  Canvas,
  SampleConfig,
  Samples,
  generate,
)


class Generated(NamedTuple):
  """Samples of one canvas; arrays are NumPy.

  texts: one a row. samples: ids, confidences, calls and perhaps a trace.
  canvas: what was given, and where it stands in the samples.
  """

  texts: list[str]
  samples: Samples
  canvas: Canvas

  def parts(self, tokenizer: Tokenizer, row: int) -> list[tuple[str, bool]]:
    """(text, whether it was filled in) of the runs of a row."""
    is_new = ~np.asarray(self.canvas.is_given[row])
    return runs(tokenizer, np.asarray(self.samples.ids[row]), is_new)


def runs(
  tokenizer: Tokenizer, ids: np.ndarray, flags: np.ndarray
) -> list[tuple[str, bool]]:
  """(text, flag) of the stretches of tokens [L] with equal flags [L].

  A stretch is what it adds to the text before it, so that all of them join to
  the whole: tokenizers drop the space before the first word of a text. What
  adds no text, such as padding, is left out.
  """
  parts, start, before = [], 0, ''
  for i in range(1, len(ids) + 1):
    if i == len(ids) or flags[i] != flags[start]:
      whole = tokenizer.decode(ids[:i])
      # A character cut in two reads otherwise once it is whole.
      added = tokenizer.decode(ids[start:i])
      if whole.startswith(before):
        added = whole[len(before) :]
      if added:
        parts.append((added, bool(flags[start])))
      start, before = i, whole
  return parts


def fill(
  method: Method,
  network: Network,
  trained: Trained,
  tokenizer: Tokenizer,
  canvas: Canvas,
  config: SampleConfig,
  seed: int = 0,
  trace: bool = False,
) -> Generated:
  """Fills in a canvas. Equal seeds give equal samples, trace or no trace.

  Raises UserError where the method cannot fill in such a canvas, or memory does
  not hold it.
  """
  key = stream(jax.random.key(seed), 'sample')

  # The canvas is closed over, not traced: a sampler may look at what is given.
  def run(trained: Trained) -> Samples:
    model = bind(method, network, trained)
    return generate(
      method.sampler, model, key, canvas, config, trace, method.needs.block
    )

  rows, length = canvas.ids.shape
  subject = f'sampling {rows} row(s) of {length} tokens'
  mend = 'lower --num, --length or sample.steps'
  compiled = compile_within(run, trained, subject=subject, mend=mend)
  samples, given = jax.device_get((compiled(trained), canvas))
  if samples.is_given is not None:
    given = Canvas(samples.ids, samples.is_given)
  return Generated(
    [tokenizer.decode(ids) for ids in samples.ids], samples, given
  )
