"""From a trained model to text: samples and infilled sentences."""

from typing import NamedTuple

import jax

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
    ids, given = self.samples.ids[row], self.canvas.is_given[row]
    parts, start = [], 0
    for i in range(1, len(ids) + 1):
      if i == len(ids) or given[i] != given[start]:
        parts.append((tokenizer.decode(ids[start:i]), not bool(given[start])))
        start = i
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
