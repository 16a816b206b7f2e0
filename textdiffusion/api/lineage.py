"""Which texts a run, and the runs that it started from, have not trained on."""

import dataclasses
import sys

from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.data import holdout, tokenizers
from textdiffusion.data.pipeline import DataConfig
from textdiffusion.training.initial import Origin
from textdiffusion.training.workdir import Run


def holdout_limit(
  run: Run, config: DataConfig, tokenizer: tokenizers.Tokenizer
) -> float:
  """Returns the largest data.holdout whose texts neither `run` nor a run that
  it started from was trained on."""
  trained = config_lib.from_json(run.config['data'])
  fingerprint = run.data.get('fingerprint', '')
  limit = holdout.holdout_limit(trained, fingerprint, config, tokenizer)
  parent = run.data.get('init_from')
  if not parent:
    return limit
  of_parent = Run(parent['config'], {}, parent['data'])
  return min(limit, holdout_limit(of_parent, config, tokenizer))


def within_holdout(
  run: Run, config: DataConfig, tokenizer: tokenizers.Tokenizer
) -> DataConfig:
  """Returns `config` with a share held out that `run` was not trained on."""
  limit = holdout_limit(run, config, tokenizer)
  if config.holdout <= limit:
    return config
  print(
    f'warning: data.holdout={config.holdout:g}: the run was trained on these '
    f'texts and held out {limit:g} of them, so that share is evaluated',
    file=sys.stderr,
  )
  return dataclasses.replace(config, holdout=limit)


def check_holdout(
  origin: Origin, config: DataConfig, tokenizer: tokenizers.Tokenizer
) -> None:
  """Raises UserError where held-out texts were trained on by the origin."""
  limit = holdout_limit(origin.run, config, tokenizer)
  if config.holdout > limit:
    raise UserError(
      f'data.holdout={config.holdout}: the run of --init_from was trained on '
      f'these texts, and held out only {limit:g} of them: set data.holdout to '
      f'at most {limit:g}'
    )
