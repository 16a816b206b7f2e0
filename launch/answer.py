"""Answers the sources of a file, one per line: launch.sample --source."""

import json
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.progress import track

from textdiffusion.api.text_model import TextModel
from textdiffusion.core.types import UserError
from textdiffusion.data.text_files import read_lines
from textdiffusion.evals.risk import gains, ranked
from textdiffusion.samplers.base import Sampler

SOURCE = flags.DEFINE_string('source', '', 'A file with one source per line.')
CANDIDATES = flags.DEFINE_integer(
  'candidates', 1, 'Answers drawn per source; the best (MBR) is printed.', 1
)
KEEP = flags.DEFINE_integer('keep', 1, 'Answers printed per source.', 1)


def run(model: TextModel, sampler: Sampler, seed: int, form: str) -> None:
  """Prints the answers of each source on a line, as text or as JSON."""
  if KEEP.value > CANDIDATES.value:
    raise UserError(
      f'--keep={KEEP.value} of --candidates={CANDIDATES.value}: draw more'
    )
  sources = _read(SOURCE.value)
  count = CANDIDATES.value
  found = model.answers(sources, count, sampler=sampler, seed=seed)
  console = Console(stderr=True)
  shown = track(found, 'answers', len(sources), console=console)
  for texts, source in zip(shown, sources):
    value = gains(texts)
    order = ranked(value)[: KEEP.value]
    if form == 'jsonl':
      best = [{'text': texts[i], 'gain': value[i]} for i in order]
      row = {'source': source, 'answers': best, 'seed': seed}
      print(json.dumps({**row, 'step': model.step}, ensure_ascii=False))
    else:
      print('\t'.join(' '.join(texts[i].split()) for i in order), flush=True)


def _read(path: str) -> list[str]:
  if not Path(path).is_file():
    raise UserError(f'--source={path}: no such file')
  return list(read_lines(path, aligned=True))
