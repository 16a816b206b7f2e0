"""Builds the bundled corpus `e2e` from the files of the E2E data set.

  python -m benchmarks.e2e_corpus FOLDER

FOLDER holds `src1_train.txt.gz`, `src1_valid.txt` and `src1_test.txt`, the
tokenised files of Diffusion-LM with one `attributes||description` per line. The
result is `textdiffusion/data/assets/e2e.txt.gz`, with the same bytes each time.
"""

import gzip
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from absl import app

from textdiffusion.data.e2e import KEYS, PATH

FILES = {
  'train': 'src1_train.txt.gz',
  'valid': 'src1_valid.txt',
  'test': 'src1_test.txt',
}
LONGEST = 40  # Longest description, in space-separated tokens of the files.
# The names of the attributes in the files, in the order of `KEYS`.
NAMES = (
  'name',
  'Type',
  'food',
  'price',
  'customer rating',
  'area',
  'family friendly',
  'near',
)


def main(argv: list[str]) -> None:
  folder, lines, kept = Path(argv[1]), [], 0
  splits = {split: list(read(folder / name)) for split, name in FILES.items()}
  heldout = {text for _, text in splits['valid'] + splits['test']}
  train = [pair for pair in splits['train'] if pair[1] not in heldout]
  for split, pairs in (splits | {'train': train}).items():
    lines.append(f'# {split}')
    for attributes, texts in grouped(pairs).items():
      lines += [attributes, *(f'\t{text}' for text in texts)]
      kept += len(texts)
  data = ('\n'.join(lines) + '\n').encode()
  PATH.parent.mkdir(exist_ok=True)
  PATH.write_bytes(gzip.compress(data, 9, mtime=0))
  print(f'{PATH}: {kept:,} descriptions, {PATH.stat().st_size:,} bytes')


def read(path: Path) -> Iterator[tuple[str, str]]:
  """Yields (attributes, description) for each line that is not too long."""
  opened = gzip.open if path.suffix == '.gz' else open
  with opened(path, 'rt', encoding='utf-8') as file:
    for line in file:
      attributes, _, text = line.partition('||')
      if len(text.split()) <= LONGEST:
        yield linearize(attributes), detokenize(text)


def grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
  """Groups descriptions by attributes, both sorted, without repetitions."""
  found: dict[str, set[str]] = {}
  for attributes, text in pairs:
    found.setdefault(attributes, set()).add(text)
  return {key: sorted(found[key]) for key in sorted(found)}


def linearize(attributes: str) -> str:
  """Converts `name : Blue Spice | Type : pub` to `name=Blue_Spice type=pub`."""
  keys, words = dict(zip(NAMES, KEYS)), []
  for field in attributes.split('|'):
    name, _, value = field.strip().partition(' : ')
    words.append(f'{keys[name]}={detokenize(value).replace(" ", "_")}')
  return ' '.join(words)


def detokenize(text: str) -> str:
  """Restores the text from tokens between spaces.

  Of the 4,672 descriptions with known originals (`devset.csv`), 98% are
  restored exactly, and 99.7% up to misplaced spaces in the originals.
  """
  text = ' '.join(text.split())
  text = re.sub(r' ([.,;:!?%)\]])', r'\1', text)
  text = re.sub(r'([(\[£$]) ', r'\1', text)
  text = re.sub(r'(?<=\w) ?- ?(?=[\w£])', '-', text)
  text = re.sub(r" ('s|'re|'ve|'ll|'d|'m)\b", r'\1', text)
  text = re.sub(r"n 't\b", "n't", text)
  if text.count("'") - len(re.findall(r"\w'\w", text)) == 2:
    text = re.sub(r"(?<!\w)' (.+?) '(?!\w)", r"'\1'", text)
  return text


if __name__ == '__main__':
  app.run(main)
