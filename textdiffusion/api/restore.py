"""A checkpoint made whole: config, tokenizer, network and parameters."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.data import tokenizers
from textdiffusion.data.pipeline import check_same_tokenizer
from textdiffusion.methods.method import Method
from textdiffusion.model import Trained
from textdiffusion.nn.network import Network
from textdiffusion.training import checkpoint
from textdiffusion.training.mesh import make_mesh, param_shardings
from textdiffusion.training.state import init_method_state
from textdiffusion.training.workdir import Run


class Restored(NamedTuple):
  """What a checkpoint holds, on the devices of its mesh.

  Attributes:
    config: with what the caller changed.
    tokenizer: of the run.
    method, network: as `config.build` returns them.
    trained: averaged parameters, and the state of the method between steps.
    step: of the checkpoint.
    mesh: the devices.
    workdir: the folder of the run.
    saved: the config of the run, before it was changed.
    run: the run's files, as JSON.
  """

  config: config_lib.Config
  tokenizer: tokenizers.Tokenizer
  method: Method
  network: Network
  trained: Trained
  step: int
  mesh: Mesh
  workdir: Path
  saved: config_lib.Config
  run: Run

  @property
  def model(self) -> tuple[Method, Network, Trained]:
    """Method, network and what was trained: the arguments of `bind`."""
    return self.method, self.network, self.trained


def restore(
  path: str | os.PathLike,
  overrides: Sequence[str] = (),
  config: config_lib.Config | None = None,
) -> Restored:
  """Loads a checkpoint onto the mesh of its config.

  Args:
    path: the folder of a run (its newest checkpoint) or of one step.
    overrides: `a.b=value` each, applied to the config in order.
    config: in place of the saved one; network, method and tokenizer must be
      the same.

  Raises:
    UserError: there is no checkpoint, it cannot be read, or the config does
      not fit.
  """
  path = os.fspath(path)
  while True:
    try:
      return _restored(path, overrides, config)
    except checkpoint.Vanished:
      # A run that trains there removed it; `located` has the newest one.
      if checkpoint.find_checkpoints(path)[1] is not None:
        raise


def _restored(
  path: str, overrides: Sequence[str], config: config_lib.Config | None
) -> Restored:
  loaded = checkpoint.load(path)
  saved = config_lib.from_json(loaded.run.config)
  tokenizer = tokenizers.from_json(loaded.run.tokenizer)
  config = config_lib.override(config or saved, overrides)
  for name in ('model', 'method'):
    if getattr(config, name) != getattr(saved, name):
      raise UserError(
        f'{path} holds another {name} than is asked for: leave {name} as saved'
      )
  check_same_tokenizer(config.data.tokenizer, tokenizer)
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
