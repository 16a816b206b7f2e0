"""What every launcher shares: flags, one-line errors, checkpoints, held-out."""

import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from absl import app, flags, logging
from jax.sharding import Mesh

from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.data import tokenizers
from textdiffusion.data.pipeline import Data, eval_batches
from textdiffusion.evals.likelihood import evaluate, row_totals
from textdiffusion.training import checkpoint
from textdiffusion.training.mesh import put_batch


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


def restore(path: str, overrides: Sequence[str]) -> Restored:
  """Loads a checkpoint; overrides change its saved config."""
  loaded = checkpoint.load(path)
  config = config_lib.from_json(loaded.run.config)
  for override in overrides:
    config = config_lib.apply_override(config, override)
  tokenizer = tokenizers.from_json(loaded.run.tokenizer)
  method, denoiser = config_lib.build(config, tokenizer)
  return Restored(
    config, tokenizer, method, denoiser, loaded.params, loaded.step
  )


def heldout_hook(
  config: config_lib.Config, data: Data, method: Any, denoiser: Any, mesh: Mesh
) -> Callable[[Any, int], dict[str, float]] | None:
  """The figures of the held-out split for the training loop, if it has any."""
  if not len(data.heldout) or method.evaluator.estimand != 'nelbo':
    return None
  totals = jax.jit(row_totals(method, denoiser, config.evaluate))

  def hook(params: Any, step: int) -> dict[str, float]:
    del step
    size = config.evaluate.batch_size
    result = evaluate(
      method,
      denoiser,
      params,
      eval_batches(data.heldout, size, config.evaluate.rows),
      data.tokenizer.byte_lengths,
      config.evaluate,
      config.data.protocol(),
      lambda batch: put_batch(mesh, batch),
      totals,
    )
    names = ('bits_per_byte', 'bits_per_byte_se', 'nats_per_token')
    return {name: result[name] for name in names}

  return hook
