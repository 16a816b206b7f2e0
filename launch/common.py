"""What launchers share: flags, and errors as one line."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable

import jax
from absl import app, flags, logging

from launch import codes, hosts, paths
from textdiffusion.core.types import UserError
from textdiffusion.data.corpora import cache_dir
from textdiffusion.training.mesh import check_platforms

CONFIG = flags.DEFINE_string('config', None, 'A config file.')
SET = flags.DEFINE_multi_string('set', [], 'a.b=value; may be repeated.')
WORKDIR = flags.DEFINE_string('workdir', None, 'The folder of a run.')


def needed() -> tuple[str, str]:
  """--config and --workdir, of launchers that train."""
  config, workdir = CONFIG.value, WORKDIR.value
  if not config or not workdir:
    raise UserError('--config=FILE and --workdir=FOLDER are both needed')
  return config, workdir


def run(main: Callable[[], None]) -> None:
  """Runs main; a user's error is one line on stderr, and a code of `codes`."""

  def guarded(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    _remember_compiled()
    try:
      if len(argv) > 1:
        raise UserError(f'unexpected argument {argv[1]!r}: flags begin with --')
      codes.stopped(), codes.tries()  # told now if wrong, not after hours
      hosts.join()
      check_platforms()
      main()
    except UserError as error:
      _say(error)
      code = codes.of(error)
    except Exception as error:
      if not jax.distributed.is_initialized():
        raise
      traceback.print_exc()
      code = codes.of(error)
    else:
      return
    if jax.distributed.is_initialized():
      hosts.leave(code)
    sys.exit(code)

  app.run(guarded, flags_parser=_parsed)


def _remember_compiled() -> None:
  """The second start of a program compiles nothing."""
  name = 'jax_compilation_cache_dir'
  with contextlib.suppress(UserError):  # a folder that cannot be written
    if not getattr(jax.config, name) and os.access(cache_dir(), os.W_OK):
      jax.config.update(name, str(cache_dir() / 'compiled'))


def _parsed(argv: list[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
    paths.expand_flags(flags.FLAGS)
    return rest
  except (flags.Error, UserError) as error:
    sys.exit(_say(' '.join(str(error).split())))


def _say(error: object) -> int:
  print(f'error: {error}', file=sys.stderr)
  return 2
