"""Trains a model.

  python -m launch.train --config=configs/mdlm/python_docs_tiny.py \
    --set=train.steps=500 --workdir=runs/mdlm
  python -m launch.train --config=configs/mdlm/python_docs_tiny.py \
    --init_from=runs/mdlm --workdir=runs/tuned
"""

import jax
from absl import flags

from launch import codes, common, heldout, start
from textdiffusion import config as config_lib
from textdiffusion.data.pipeline import Data, train_iterator
from textdiffusion.nn.transformer import flops_per_token, num_params
from textdiffusion.training import profile
from textdiffusion.training.loop import train
from textdiffusion.training.mesh import check_batch, check_parameters, make_mesh
from textdiffusion.training.workdir import prepare_workdir

RESUME = flags.DEFINE_bool('resume', False, 'Go on in a workdir.')
PROFILE = flags.DEFINE_string('profile', '', 'START:STOP, steps to trace.')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Move an old run aside.')


def main() -> None:
  path, workdir = common.needed()
  config = config_lib.load(path, common.SET.value)
  traced = profile.parse(PROFILE.value)
  init_from = start.INIT_FROM.value
  run(config, workdir, RESUME.value, OVERWRITE.value, traced, init_from)


def run(
  config: config_lib.Config,
  workdir: str,
  resume: bool,
  overwrite: bool,
  traced: profile.Steps | None = None,
  init_from: str | None = None,
) -> Data:
  """Trains what a config says; returns its data."""
  mesh = make_mesh(config.mesh)
  check_batch(mesh, config.data.batch_size, config.train.accumulate)
  opened = start.open_run(config, workdir, resume, init_from)
  data, (method, network), facts, initial = opened
  check_parameters(num_params(network), mesh)
  older, tries = config_lib.completed, codes.tries()
  owner = prepare_workdir(workdir, facts, resume, overwrite, older, tries)
  counts = data.counts['train']
  rows, host = config.data, (jax.process_index(), jax.process_count())
  width, features = method.needs.width, method.needs.features
  sizes = rows.length, features, rows.source_length, method.structure
  print(
    f'{config.data.source}: {counts["documents"]:,} documents, '
    f'{counts["tokens"]:,} tokens; {num_params(network):,} parameters; '
    f'{jax.device_count()} {jax.default_backend()} device(s)'
  )
  order = rows.batch_size, rows.seed, *host, rows.buckets
  with owner:
    state = train(
      method,
      network,
      train_iterator(data.train, *order),
      config.train,
      mesh,
      workdir,
      facts,
      heldout.hook(config, data, method, network, mesh),
      flops_per_token(config.model, width, *sizes),
      traced,
      owner,
      initial,
    )
  codes.ended(int(state.step) < config.train.steps)
  return data


if __name__ == '__main__':
  common.run(main)
