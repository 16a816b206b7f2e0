"""Held-out likelihood of a checkpoint, printed and written as JSON.

python -m launch.evaluate --workdir=runs/demo --set=evaluate.draws=32
"""

import json
from pathlib import Path

import jax
from absl import flags

from launch import common, heldout
from launch.restored import restore
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import open_data
from textdiffusion.viz.page import write

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A workdir or a step.')
OUT = flags.DEFINE_string('out', None, 'Where the JSON goes.')


def main() -> None:
  made = restore(CHECKPOINT.value)
  data = open_data(made.config.data, made.tokenizer)
  if not len(data.heldout):
    raise UserError('no document is held out: raise data.holdout')
  report = heldout.evaluator(
    made.config, data, made.method, made.denoiser, made.mesh
  )
  with jax.set_mesh(made.mesh):
    result = report(made.params, made.method_state)
  result = {
    **result,
    **heldout.truth(made.config, data, result),
    'baselines': heldout.baselines(made.config, data),
    'step': made.step,
    'data_fingerprint': data.fingerprint,
  }
  text = json.dumps(result, indent=2)
  print(text)
  folder = Path(CHECKPOINT.value or common.WORKDIR.value or '')
  if folder.parent.name == 'checkpoints':
    folder = folder.parent.parent
  write(OUT.value or folder / f'evaluation-{made.step}.json', text + '\n')


if __name__ == '__main__':
  common.run(main)
