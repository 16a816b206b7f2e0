"""Loads the checkpoint that the flags of a launcher name."""

import contextlib
import sys

from textdiffusion import config as config_lib
from textdiffusion.api.restore import Restored, restore
from textdiffusion.config_files import RecipeNeeded
from textdiffusion.core.types import UserError

from . import common


def load_checkpoint(path: str | None) -> Restored:
  """Loads a checkpoint; --set replaces parts of its config.

  --config names a file that imports the classes of the saved config, such as a
  method of one's own. The saved config is used all the same, and a line says
  so where the file has another one.
  """
  path = path or common.WORKDIR.value
  if not path:
    raise UserError('--checkpoint is missing: name a workdir of launch.train')
  named = None
  if file := common.CONFIG.value:
    with contextlib.suppress(RecipeNeeded):  # Any recipe has the imports.
      named = config_lib.load(file)
  restored = restore(path, common.SET.value)
  if named is not None and not common.SET.value and named != restored.config:
    print(
      f'--config={file} differs from the config saved in {path}, which is '
      'used: change it by --set',
      file=sys.stderr,
    )
  return restored
