"""Loads the checkpoint that the flags of a launcher name."""

import contextlib

from textdiffusion import config as config_lib
from textdiffusion.api.restore import Restored, restore
from textdiffusion.config_files import RecipeNeeded
from textdiffusion.core.types import UserError

from . import common


def load_checkpoint(path: str | None) -> Restored:
  """Loads a checkpoint; --set replaces parts of its config.

  --config names a file that imports the classes of the saved config, such as a
  method of one's own. The saved config is used all the same.
  """
  path = path or common.WORKDIR.value
  if not path:
    raise UserError('--checkpoint is missing: name a workdir of launch.train')
  if file := common.CONFIG.value:
    with contextlib.suppress(RecipeNeeded):  # Any recipe has the imports.
      config_lib.load(file)
  return restore(path, common.SET.value)
