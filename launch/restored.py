"""A checkpoint made whole: config, tokenizer, network and parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from launch import common
from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.data import tokenizers
from textdiffusion.data.pipeline import refuse_other
from textdiffusion.model import Trained
from textdiffusion.training import checkpoint
from textdiffusion.training.mesh import make_mesh, param_shardings
from textdiffusion.training.state import init_method_state
from textdiffusion.training.workdir import Run


class Restored(NamedTuple):
  """saved: the config of the run, before the flags change it. run: its JSON."""

  config: config_lib.Config
  tokenizer: tokenizers.Tokenizer
  method: Any
  network: Any
  trained: Trained
  step: int
  mesh: Any
  workdir: Path
  saved: config_lib.Config
  run: Run

  @property
  def model(self) -> tuple[Any, Any, Trained]:
    return self.method, self.network, self.trained


def restore(path: str | None, overrides: Sequence[str] = ()) -> Restored:
  """Loads a checkpoint onto the mesh of its config.

  --config replaces the saved config, where network, method and tokenizer are
  the same; overrides change it.
  """
  if not (path := path or common.WORKDIR.value):
    raise UserError('--checkpoint is missing: name a workdir of launch.train')
  while True:
    try:
      return _restored(path, overrides)
    except checkpoint.Vanished:
      # A run that trains there removed it; `located` has the newest one.
      if checkpoint.located(path)[1] is not None:
        raise


def _restored(path: str, overrides: Sequence[str]) -> Restored:
  loaded = checkpoint.load(path)
  saved = config_lib.from_json(loaded.run.config)
  tokenizer = tokenizers.from_json(loaded.run.tokenizer)
  path_of_config = common.CONFIG.value
  config = config_lib.load(path_of_config) if path_of_config else saved
  config = config_lib.override(config, [*common.SET.value, *overrides])
  for name in ('model', 'method'):
    if getattr(config, name) != getattr(saved, name):
      raise UserError(
        f'{path} holds another {name} than is asked for: leave {name} as saved'
      )
  refuse_other(config.data.tokenizer, tokenizer)
  counts = loaded.run.data.get('token_counts')
  method, network = config_lib.build(config, tokenizer, counts)
  mesh = make_mesh(config.mesh)
  params = jax.device_put(loaded.params, param_shardings(mesh, loaded.params))
  like = jax.eval_shape(
    lambda params: init_method_state(method, network, params), params
  )
  state = checkpoint.load_method_state(loaded, like)
  model = method, network, Trained(params, state)
  origin = loaded.workdir, saved, loaded.run
  return Restored(config, tokenizer, *model, loaded.step, mesh, *origin)
