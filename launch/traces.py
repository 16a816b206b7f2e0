"""Generated samples -> traces to look at."""

from typing import Any

from textdiffusion.data.tokenizers import Tokenizer
from textdiffusion.evals.generation import Generated
from textdiffusion.viz.trace import Trace


def of(
  generated: Generated, tokenizer: Tokenizer, settings: dict[str, Any]
) -> list[Trace]:
  """One trace a row; the generation must have kept one."""
  samples = generated.samples
  mask = tokenizer.vocab.mask_id
  is_causal = mask is None or not (samples.trace.ids[0] == mask).any()
  traces = []
  for row in range(len(samples.ids)):
    ids = samples.trace.ids[:, row]
    given = generated.canvas.is_given[row]
    if is_causal:  # what was not drawn yet is not there yet
      first = ids.shape[1] - len(ids) + 1
      hidden = [
        [place >= first + frame and not given[place] for place in range(len(given))]
        for frame in range(len(ids))
      ]
    else:
      hidden = (ids == mask).tolist()
    traces.append(
      Trace(
        [tokenizer.pieces(frame) for frame in ids],
        samples.trace.log_prob[:, row].tolist(),
        hidden,
        given.tolist(),
        samples.times.tolist(),
        f'sample {row + 1}',
        {**settings, 'network calls': int(samples.calls)},
      )
    )
  return traces
