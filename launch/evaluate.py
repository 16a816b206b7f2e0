"""Held-out likelihood of a checkpoint, printed and written as JSON.

python -m launch.evaluate --workdir=runs/demo --set=evaluate.draws=32
"""

import dataclasses
import json

import jax
from absl import flags

from launch import common, heldout, lineage
from launch.restored import restore
from textdiffusion.core.paths import check_writable
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import open_data
from textdiffusion.viz.page import write

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A workdir or a step.')
OUT = flags.DEFINE_string('out', None, 'Where the JSON goes.')


def main() -> None:
  made = restore(CHECKPOINT.value)
  out = OUT.value or made.workdir / f'evaluation-{made.step}.json'
  check_writable(out, 'name a file that can be by --out')
  settings = made.config.data
  settings = lineage.within_holdout(made.run, settings, made.tokenizer)
  config = dataclasses.replace(made.config, data=settings)
  data = open_data(settings, made.tokenizer)
  if not len(data.heldout):
    raise UserError(
      f'data.holdout={settings.holdout:g}: no document is held out from '
      f'training; name another text by --set=data.source'
    )
  report = heldout.evaluator(
    config, data, made.method, made.denoiser, made.mesh
  )
  with jax.set_mesh(made.mesh):
    result = report(made.params, made.method_state)
  result = {
    **result,
    **heldout.truth(config, data, result),
    'baselines': heldout.baselines(config, data),
    'step': made.step,
    'data_fingerprint': data.fingerprint,
  }
  text = json.dumps(result, indent=2)
  print(text)
  write(out, text + '\n')


if __name__ == '__main__':
  common.run(main)
