"""Every recipe of configs/, built once for all tests, and its description."""

from textdiffusion.config import Config
from textdiffusion.config_files import bundled_files, descriptions, read_all

CONFIGS = {
  f'{method}:{name}': config
  for method, path in bundled_files().items()
  for name, config in read_all(str(path), Config).items()
}
TEXTS = {
  f'{method}:{name}': text
  for method, path in bundled_files().items()
  for name, text in descriptions(str(path)).items()
}
# Those of bundled data are small; the others have the scale of a paper.
SMALL = [
  name
  for name, config in CONFIGS.items()
  if config.data.source in ('e2e', 'python_docs', 'toy_grammar', 'toy_pairs')
]
PAPER = [name for name in CONFIGS if name not in SMALL]
