"""Loads the checkpoint that the flags of a launcher name."""

from textdiffusion import config as config_lib
from textdiffusion.api.restore import Restored, restore
from textdiffusion.core.types import UserError

from . import common


def load_checkpoint(path: str | None) -> Restored:
  """Loads a checkpoint; --config and --set replace parts of its config."""
  path = path or common.WORKDIR.value
  if not path:
    raise UserError('--checkpoint is missing: name a workdir of launch.train')
  file = common.CONFIG.value
  config = config_lib.load(file) if file else None
  return restore(path, common.SET.value, config)
