"""The largest data.holdout that holds out only texts unseen in training."""

import dataclasses

from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import DataConfig, data_fingerprint
from textdiffusion.data.sources import has_own_splits, open_source
from textdiffusion.data.tokenizers import Tokenizer


def holdout_limit(
  trained: DataConfig,
  fingerprint: str,
  config: DataConfig,
  tokenizer: Tokenizer,
) -> float:
  """Returns the largest data.holdout without texts that a run was trained on.

  A document is held out if the hash of its text is below data.holdout, so a
  smaller share is part of a larger one. A source of other texts has no limit:
  it returns 1.

  Args:
    trained: data config of the run.
    fingerprint: fingerprint of the run's data.
    config: data config of the evaluation.
    tokenizer: tokenizer of the run.

  Raises:
    UserError: the same files are divided into other documents, so that a
      held-out document may contain text that the run was trained on.
  """
  if has_own_splits(config.source):
    return 1.0
  if config.source == trained.source:
    return trained.holdout
  path, split = _divided(config.source)
  trained_path, trained_split = _divided(trained.source)
  if path == trained_path and split != trained_split:
    raise UserError(
      f'data.source={config.source}: the run was trained on {trained.source}, '
      'whose held-out documents are cut otherwise: leave data.source as it '
      'was, or name another file'
    )
  moved = dataclasses.replace(trained, source=config.source)
  source = open_source(config.source, trained.holdout)
  is_moved = data_fingerprint(moved, source, tokenizer) == fingerprint
  return trained.holdout if is_moved else 1.0


def _divided(source: str) -> tuple[str, str]:
  """Splits a source into its pattern and the option that divides files."""
  path, _, options = source.partition('?')
  cuts = [part for part in options.split('&') if part.startswith('split=')]
  return path, ''.join(cuts)
