"""Trains a model.

  python -m launch.train --config=configs/mdlm/python_docs_tiny.py \
    --set=train.steps=500 --workdir=runs/mdlm
"""

from typing import Any

import jax
from absl import flags

from launch import codes, common, heldout
from textdiffusion import config as config_lib
from textdiffusion.data.pipeline import Data, open_data, train_iterator
from textdiffusion.nn.transformer import flops_per_token, num_params
from textdiffusion.training import profile
from textdiffusion.training.loop import train
from textdiffusion.training.mesh import check_batch, check_parameters, make_mesh
from textdiffusion.training.workdir import Run, prepare_workdir

RESUME = flags.DEFINE_bool('resume', False, 'Go on in a workdir.')
PROFILE = flags.DEFINE_string('profile', '', 'START:STOP, steps to trace.')
OVERWRITE = flags.DEFINE_bool('overwrite', False, 'Move an old run aside.')


def main() -> None:
  path, workdir = common.needed()
  config = config_lib.load(path, common.SET.value)
  traced = profile.parse(PROFILE.value)
  run(config, workdir, RESUME.value, OVERWRITE.value, traced)


def run(
  config: config_lib.Config,
  workdir: str,
  resume: bool,
  overwrite: bool,
  traced: profile.Steps | None = None,
) -> Data:
  """Trains what a config says; returns its data."""
  mesh = make_mesh(config.mesh)
  check_batch(mesh, config.data.batch_size, config.train.accumulate)
  data = open_data(config.data)
  told: dict[str, Any] = dict(fingerprint=data.fingerprint, counts=data.counts)
  if config_lib.needs_counts(config):
    told['token_counts'] = data.token_counts()
  method, denoiser = config_lib.build(
    config, data.tokenizer, told.get('token_counts')
  )
  facts = Run(config_lib.to_json(config), data.tokenizer.to_json(), told)
  check_parameters(num_params(denoiser), mesh)
  older, tries = config_lib.completed, codes.tries()
  prepare_workdir(workdir, facts, resume, overwrite, older, tries)
  counts = data.counts['train']
  rows, host = config.data, (jax.process_index(), jax.process_count())
  sizes = config.data.length, method.features, config.data.source_length
  print(
    f'{config.data.source}: {counts["documents"]:,} documents, '
    f'{counts["tokens"]:,} tokens; {num_params(denoiser):,} parameters; '
    f'{jax.device_count()} {jax.default_backend()} device(s)'
  )
  state = train(
    method,
    denoiser,
    train_iterator(data.train, rows.batch_size, rows.seed, *host, rows.buckets),
    config.train,
    mesh,
    workdir,
    facts,
    heldout.hook(config, data, method, denoiser, mesh),
    flops_per_token(config.model, method.width, *sizes),
    traced,
  )
  codes.ended(int(state.step) < config.train.steps)
  return data


if __name__ == '__main__':
  common.run(main)
