"""What every launcher shares: flags, one-line errors, checkpoints made whole."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from absl import app, flags, logging

from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.data import tokenizers
from textdiffusion.data.pipeline import refuse_other
from textdiffusion.training import checkpoint
from textdiffusion.training.mesh import make_mesh, param_shardings

CONFIG = flags.DEFINE_string('config', None, 'A config file.')
SET = flags.DEFINE_multi_string('set', [], 'a.b=value; may be repeated.')
WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of a run.')


def run(main: Callable[[], None]) -> None:
  """Runs main; a user's error ends as one line on stderr and exit code 2."""

  def guarded(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    try:
      if len(argv) > 1:
        raise UserError(f'unexpected argument {argv[1]!r}: flags begin with --')
      main()
    except UserError as error:
      print(f'error: {error}', file=sys.stderr)
      sys.exit(2)

  def parsed(argv: list[str]) -> list[str]:
    try:
      return flags.FLAGS(argv)
    except flags.Error as error:
      print(f'error: {" ".join(str(error).split())}', file=sys.stderr)
      sys.exit(2)

  app.run(guarded, flags_parser=parsed)


class Restored(NamedTuple):
  """A checkpoint made whole: config, tokenizer, network and parameters."""

  config: config_lib.Config
  tokenizer: tokenizers.Tokenizer
  method: Any
  denoiser: Any
  params: Any
  step: int


def restore(path: str | None, overrides: Sequence[str] = ()) -> Restored:
  """Loads a checkpoint onto the mesh of its config.

  --config replaces the saved config, where network, method and tokenizer are
  the same; overrides change it.
  """
  path = path or WORKDIR.value
  if not path:
    raise UserError('--checkpoint is missing: name a workdir of launch.train')
  loaded = checkpoint.load(path)
  saved = config_lib.from_json(loaded.run.config)
  tokenizer = tokenizers.from_json(loaded.run.tokenizer)
  config = config_lib.load(CONFIG.value) if CONFIG.value else saved
  for override in [*SET.value, *overrides]:
    config = config_lib.apply_override(config, override)
  for name in ('model', 'method'):
    if getattr(config, name) != getattr(saved, name):
      raise UserError(
        f'{path} holds another {name} than is asked for: leave {name} as saved'
      )
  refuse_other(config.data.tokenizer, tokenizer)
  method, denoiser = config_lib.build(config, tokenizer)
  shardings = param_shardings(make_mesh(config.mesh), loaded.params)
  params = jax.device_put(loaded.params, shardings)
  return Restored(config, tokenizer, method, denoiser, params, loaded.step)
