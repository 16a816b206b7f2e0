"""Trains a model.

  python -m launch.train --config=configs/mdlm.py:python_docs \\
    --set=train.steps=500 --workdir=runs/mdlm
  python -m launch.train --config=configs/mdlm.py:python_docs \\
    --init_from=runs/mdlm --workdir=runs/tuned
"""

from absl import flags

from textdiffusion import config as config_lib
from textdiffusion.api.training import TrainingRun, train
from textdiffusion.training import profile

from . import codes, common

RESUME = flags.DEFINE_bool('resume', False, 'Resume the run in the workdir.')
PROFILE = flags.DEFINE_string('profile', '', 'START:STOP, steps to trace.')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Rename an old workdir.')
INIT_FROM = flags.DEFINE_string(
  'init_from', None, 'A run or checkpoint whose parameters to start from.'
)


def main() -> None:
  path, workdir = common.required_flags()
  config = config_lib.load(path, common.SET.value)
  run(config, workdir, RESUME.value)


def run(config: config_lib.Config, workdir: str, resume: bool) -> TrainingRun:
  """Trains with the options of the flags; exits if a signal ended the run."""
  result = train(
    config,
    workdir,
    resume=resume,
    overwrite=OVERWRITE.value,
    init_from=INIT_FROM.value,
    profile=profile.parse(PROFILE.value),
    tries=codes.tries(),
  )
  codes.exit_if_stopped(not result.is_finished)
  return result


if __name__ == '__main__':
  common.run(main)
