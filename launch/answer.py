"""Answers the sources of a file, one per line: launch.sample --source."""

import json
import sys
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console
from rich.progress import track

from textdiffusion.api.text_model import TextModel
from textdiffusion.core.types import UserError
from textdiffusion.data.coverage import warn_unknown
from textdiffusion.data.text_files import read_lines
from textdiffusion.data.tokenizers import Words
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
  _warn_unknown_words(model.tokenizer, sources)
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


def _warn_unknown_words(tokenizer: Any, sources: list[str]) -> None:
  """Prints which words, or which share of other tokens, are unknown."""
  if not isinstance(tokenizer, Words):
    return warn_unknown(tokenizer, sources, 'the sources')
  unknown = [word for text in sources for word in tokenizer.unknown(text)]
  if unknown:
    some = ', '.join(map(repr, dict.fromkeys(unknown[:5])))
    print(
      f'{len(unknown)} words are unknown and read as <unk>: {some}',
      file=sys.stderr,
    )
