"""The templates that the demo fills in."""

from collections.abc import Callable
from typing import Any

from textdiffusion.api.restore import Restored
from textdiffusion.core.types import UserError
from textdiffusion.sampling.prompts import infilling
from textdiffusion.viz.report import Infill
from textdiffusion.viz.samples import traces_of

TEMPLATES = ('The <mask:6> statement', 'Return the <mask:8> of the list.')


def fill_templates(
  made: Restored, fill: Callable[[Any], Any], facts: dict[str, Any]
) -> tuple[list[Infill], list[Any]]:
  """Fills in what fits into a row, and prints it.

  Args:
    made: the checkpoint.
    fill: a canvas -> what is generated.
    facts: for the captions of the traces.

  Returns:
    The filled-in templates, and their traces.
  """
  infills, traces = [], []
  for template in TEMPLATES if made.method.process else ():
    try:
      canvas = infilling(made.tokenizer, template, 1, made.config.data.length)
    except UserError as error:  # the report goes without it
      print(f'{template}: left out: {error}')
      continue
    filled = fill(canvas)
    infills.append(Infill(filled.parts(made.tokenizer, 0)))
    print(f'{template} -> {filled.texts[0]!r}')
    traces += traces_of(
      filled.samples, filled.canvas, made.tokenizer, facts, template
    )
  return infills, traces
