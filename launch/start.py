"""What a run begins with: data, network, and the parameters of another run."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from absl import flags

from launch.lineage import check_holdout
from textdiffusion import config as config_lib
from textdiffusion.data.pipeline import Data, open_data
from textdiffusion.training.initial import check_shapes, find_start, start_from
from textdiffusion.training.state import TrainState
from textdiffusion.training.workdir import Run

INIT_FROM = flags.DEFINE_string(
  'init_from', None, 'A run or a checkpoint: start from its parameters.'
)


class Opened(NamedTuple):
  """What `train` needs of a config, before the workdir is touched.

  Attributes:
    data: the opened data.
    experiment: method and network.
    run: what the workdir keeps.
    initial: a fresh state -> the state to start from, if any.
  """

  data: Data
  experiment: config_lib.Experiment
  run: Run
  initial: Callable[[TrainState], TrainState] | None


def open_run(
  config: config_lib.Config, workdir: str, resume: bool, init_from: str | None
) -> Opened:
  """Opens the data of a config, builds its network, finds its parameters."""
  start = find_start(workdir, resume, init_from)
  data = open_data(config.data, start.tokenizer)
  facts: dict[str, Any] = {
    'fingerprint': data.fingerprint,
    'counts': data.counts,
    **start.facts,
  }
  if config_lib.needs_counts(config):
    facts['token_counts'] = data.token_counts()
  experiment = config_lib.build(
    config, data.tokenizer, facts.get('token_counts')
  )
  run = Run(config_lib.to_json(config), data.tokenizer.to_json(), facts)
  if start.origin is None:
    return Opened(data, experiment, run, None)
  check_holdout(start.origin, config.data, data.tokenizer)
  shapes = jax.eval_shape(experiment.network.init, jax.random.key(0))
  check_shapes(start.origin, shapes)
  initial = functools.partial(start_from, start.origin)
  return Opened(data, experiment, run, initial)
