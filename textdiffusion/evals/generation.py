"""From a trained model to text: samples, infilled sentences, traces."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from textdiffusion.core.keys import stream
from textdiffusion.core.types import Denoiser, PyTree, bind
from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.methods.method import Method
from textdiffusion.sampling.generate import (
  Canvas,
  SampleConfig,
  Samples,
  generate,
)


class Sampled(NamedTuple):
  """Samples of one canvas as text.

  texts: one a row. pieces: display strings of the last ids, [B][L].
  samples: ids, confidences, calls and perhaps a trace, as NumPy.
  canvas: what was given, as NumPy.
  """

  texts: list[str]
  pieces: list[list[str]]
  samples: Samples
  canvas: Canvas


def draw(
  method: Method,
  denoiser: Denoiser,
  params: PyTree,
  tokenizer: Tokenizer,
  canvas: Canvas,
  config: SampleConfig,
  seed: int = 0,
  trace: bool = False,
) -> Sampled:
  """Fills in a canvas. Equal seeds give equal samples, trace or no trace."""
  key = stream(jax.random.key(seed), 'sample')

  @partial(jax.jit, static_argnums=3)
  def run(params: PyTree, key: Any, canvas: Canvas, trace: bool) -> Samples:
    model = bind(denoiser, params, method.head)
    return generate(method.sampler, model, key, canvas, config, trace)

  # What the sampler can refuse it refuses here, where the canvas is concrete.
  model = bind(denoiser, params, method.head)
  jax.eval_shape(lambda: jnp.zeros(()))
  method.sampler(model, key, canvas, config)
  samples, canvas = jax.device_get((run(params, key, canvas, trace), canvas))
  return Sampled(
    [tokenizer.decode(row) for row in samples.ids],
    [tokenizer.pieces(row) for row in samples.ids],
    samples,
    canvas,
  )
