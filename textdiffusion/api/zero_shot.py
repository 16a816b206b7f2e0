"""A checkpoint is evaluated on another source than that of its training."""

import dataclasses
from collections.abc import Sequence

from textdiffusion.config import Config
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.data.sources import open_source


def evaluated(
  config: Config, saved: Config, has_holdout: bool = False
) -> tuple[Config, bool]:
  """Returns what to evaluate, and whether it is another source than the run's.

  Another source has no training split, so that all of it is evaluated unless
  `has_holdout`. The same texts at another path are the run's own.

  Args:
    config: as asked for.
    saved: of the run.
    has_holdout: whether the caller chose `config.data.holdout`.
  """
  mine, data = saved.data, config.data
  if data.source == mine.source or _is_same(data.source, mine):
    return config, False
  if not has_holdout:
    data = dataclasses.replace(data, holdout=1.0)
  return dataclasses.replace(config, data=data), True


def has_holdout(overrides: Sequence[str]) -> bool:
  """Whether one of them gives data.holdout, by itself or in a call."""
  return any(
    text.startswith('data.holdout=')
    or (text.startswith('data=') and 'holdout=' in text)
    for text in overrides
  )


def _is_same(source: str, trained: DataConfig) -> bool:
  """Whether a source holds the texts that the run was trained on."""
  fingerprint = open_source(source, trained.holdout).fingerprint
  try:
    return (
      fingerprint == open_source(trained.source, trained.holdout).fingerprint
    )
  except UserError:  # the run's texts are no longer there
    return False
