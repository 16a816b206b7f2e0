"""Held-out likelihood of a checkpoint, printed and written as JSON.

  python -m launch.evaluate --workdir=runs/demo --set=evaluate.draws=32
  python -m launch.evaluate --workdir=runs/demo --set=data.source=files:a.txt

Another source than that of training is evaluated whole (zero-shot).
"""

import json
from pathlib import Path

import jax
from absl import flags

from launch import common, conflicts, heldout, zero_shot
from launch.restored import restore
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import open_data
from textdiffusion.viz.page import write

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A workdir or a step.')
OUT = flags.DEFINE_string('out', None, 'Where the JSON goes.')


def main() -> None:
  conflicts.check_evaluate()
  made = restore(CHECKPOINT.value)
  config, is_other = zero_shot.evaluated(made.config, made.saved)
  data = open_data(config.data, made.tokenizer, needs_training=False)
  if not len(data.heldout):
    raise UserError(
      f'data.source={config.data.source}: no document is held out: name '
      'another source, or train with a larger data.holdout'
    )
  report = heldout.evaluator(
    config, data, made.method, made.denoiser, made.mesh
  )
  with jax.set_mesh(made.mesh):
    result = report(made.params, made.method_state)
  if is_other:
    result['protocol'] += f'; zero-shot, trained on {made.saved.data.source}'
  result = {
    **result,
    **heldout.truth(config, data, result),
    'step': made.step,
    'data_fingerprint': data.fingerprint,
  }
  text = json.dumps(result, indent=2)
  print(text)
  folder = Path(CHECKPOINT.value or common.WORKDIR.value or '')
  if folder.parent.name == 'checkpoints':
    folder = folder.parent.parent
  # The report on other data has a name of its own beside the run's.
  is_own = data.fingerprint == made.run.data.get('fingerprint')
  name = f'{made.step}' if is_own else f'{made.step}-{data.fingerprint}'
  write(OUT.value or folder / f'evaluation-{name}.json', text + '\n')


if __name__ == '__main__':
  common.run(main)
