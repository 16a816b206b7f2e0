"""`train`: from a config to a folder with checkpoints."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from textdiffusion import config as config_lib
from textdiffusion.api.evaluations import periodic
from textdiffusion.api.start import open_run
from textdiffusion.core.paths import expand
from textdiffusion.data.pipeline import Data, train_iterator
from textdiffusion.nn.transformer import flops_per_token, num_params
from textdiffusion.parsing import check_value
from textdiffusion.training import loop, metrics
from textdiffusion.training.mesh import check_batch, check_parameters, make_mesh
from textdiffusion.training.profile import Steps
from textdiffusion.training.workdir import prepare_workdir


class TrainingRun(NamedTuple):
  """A training that ended, at its last step or earlier by a signal.

  Attributes:
    workdir: the folder of the run; `load` and `evaluate` take it.
    step: training steps taken.
    data: the opened data.
    config: the config of the run.
  """

  workdir: Path
  step: int
  data: Data
  config: config_lib.Config

  @property
  def is_finished(self) -> bool:
    """Whether all steps of the config were taken."""
    return self.step >= self.config.train.steps

  def metrics(self) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, one for each logged step."""
    return metrics.read(self.workdir / 'metrics.jsonl')

  def __repr__(self) -> str:
    return f'TrainingRun({str(self.workdir)!r}, step={self.step})'


def train(
  config: config_lib.Config,
  workdir: str | os.PathLike,
  *,
  resume: bool = False,
  overwrite: bool = False,
  init_from: str | os.PathLike | None = None,
  profile: Steps | None = None,
  tries: int = 0,
) -> TrainingRun:
  """Trains a config and keeps its checkpoints and figures in a folder.

  Args:
    config: what to train, on what, and for how long.
    workdir: the folder of the run.
    resume: go on with the run that the folder holds.
    overwrite: move a run that the folder holds aside, to WORKDIR.bak-N.
    init_from: a run or a checkpoint whose parameters to start from.
    profile: steps of which a trace is written.
    tries: starts from one checkpoint after which the run is given up; 0 for
      any number.

  Returns:
    The run. SIGTERM or Ctrl-C end it early, with a checkpoint.

  Raises:
    UserError: the config does not fit the data, the devices or what the folder
      holds; or training failed.
  """
  check_value(config_lib.Config, config, 'config')
  folder = os.fspath(workdir)
  mesh = make_mesh(config.mesh)
  check_batch(mesh, config.data.batch_size, config.train.accumulate)
  origin = None if init_from is None else os.fspath(init_from)
  opened = open_run(config, folder, resume, origin)
  data, (method, network), facts, initial = opened
  check_parameters(num_params(network), mesh)
  measures = periodic(config, data, method, network, mesh, folder)
  owner = prepare_workdir(
    folder, facts, resume, overwrite, config_lib.completed, tries
  )
  counts = data.counts['train']
  rows, host = config.data, (jax.process_index(), jax.process_count())
  width, features = method.needs.width, method.needs.features
  sizes = rows.length, features, rows.source_length, method.structure
  print(
    f'{config.data.source}: {counts["documents"]:,} documents, '
    f'{counts["tokens"]:,} tokens; {num_params(network):,} parameters; '
    f'{jax.device_count()} {jax.default_backend()} device(s)'
  )
  print(plan(config, counts['tokens']))
  sys.stdout.flush()
  if not jax.process_index():
    for line in warnings_of(config, data):
      print(f'warning: {line}', file=sys.stderr)
  order = rows.batch_size, rows.seed, *host, rows.buckets, rows.source_dropout
  with owner:
    state = loop.train(
      method,
      network,
      train_iterator(data.train, *order),
      config.train,
      mesh,
      folder,
      facts,
      measures,
      flops_per_token(config.model, width, *sizes),
      profile,
      owner,
      initial,
    )
  path = expand(folder).absolute()
  return TrainingRun(path, int(state.step), data, config)


def warnings_of(config: config_lib.Config, data: Data) -> Iterator[str]:
  """Yields a line for each setting that is allowed and seldom intended.

  Args:
    config: of the run.
    data: its opened data.
  """
  holdout, documents = config.data.holdout, data.counts['train']['documents']
  if holdout and not len(data.heldout):
    yield (
      f'data.holdout={holdout:g}: no row of {documents:,} document(s) is held '
      'out, so no likelihood is evaluated; give the source more documents '
      '(files:...?split=line or split=blank divides a file), or raise it'
    )
  warmup = config.train.optimizer.warmup_steps
  if warmup >= config.train.steps:
    yield (
      f'train.optimizer.warmup_steps={warmup}: the warm-up takes all '
      f'train.steps={config.train.steps}; lower it'
    )


def plan(config: config_lib.Config, tokens: int) -> str:
  """One line that says how much a run will compute.

  Args:
    config: of the run.
    tokens: in the training split.
  """
  each = config.data.batch_size * config.data.length
  total = each * config.train.steps
  return (
    f'{config.train.steps:,} steps of {config.data.batch_size} rows of '
    f'{config.data.length} tokens: {each:,} tokens a step, {total:,} in all, '
    f'{total / max(tokens, 1):.3g} times the training split'
  )
