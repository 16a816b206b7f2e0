"""Flags that launchers share, and errors as one line."""

import contextlib
import os
import sys
import traceback
from collections.abc import Callable

import jax
from absl import app, flags, logging

from textdiffusion import config as config_lib
from textdiffusion.core.memory import is_exhausted, keep_freed_memory
from textdiffusion.core.types import UserError
from textdiffusion.data.corpora import cache_dir
from textdiffusion.training.mesh import check_platforms

from . import codes, hosts, parsing, printing

CONFIG = flags.DEFINE_string(
  'config', None, 'A config file, FILE.py:RECIPE; FILE.py lists its recipes.'
)
SET = flags.DEFINE_multi_string('set', [], 'A field of the config, a.b=value')
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')


def required_flags(**example: str) -> tuple[str, str]:
  """Returns --config and the other flag that a launcher requires."""
  ((name, like),) = example.items() or [('workdir', 'FOLDER')]
  config, other = CONFIG.value, flags.FLAGS[name].value
  if config and not other:
    config_lib.load(config)  # Lists the recipes if the flag names none.
  if not config or not other:
    raise UserError(f'--config=FILE and --{name}={like} are both needed')
  return config, other


def run(main: Callable[[], None]) -> None:
  """Runs `main`; prints errors of the user as one line and exits."""

  def guarded(argv: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    printing.allow_any_text()
    keep_freed_memory()
    _use_compilation_cache()
    try:
      if len(argv) > 1:
        raise UserError(f'unexpected argument {argv[1]!r}: flags begin with --')
      codes.stopped_code(), codes.tries()  # Raises now, not after hours.
      hosts.join()
      check_platforms()
      main()
      sys.stdout.flush()
    except UserError as error:
      code = printing.report(error, codes.exit_code(error))
    except BrokenPipeError:
      code = printing.close_stdout()
    except Exception as error:
      if jax.distributed.is_initialized():
        traceback.print_exc()
        code = codes.exit_code(error)
      elif is_exhausted(error):
        code = printing.report_memory(error)
      else:
        raise
    else:
      return
    if jax.distributed.is_initialized():
      hosts.leave(code)
    sys.exit(code)

  app.run(guarded, flags_parser=parsing.parse_flags)


def _use_compilation_cache() -> None:
  """Caches compiled programs on disk, so that later starts are fast."""
  name = 'jax_compilation_cache_dir'
  with contextlib.suppress(UserError):  # If the folder cannot be written.
    if not getattr(jax.config, name) and os.access(cache_dir(), os.W_OK):
      jax.config.update(name, str(cache_dir() / 'compiled'))
