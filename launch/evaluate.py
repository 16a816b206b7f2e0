"""Held-out likelihood of a checkpoint, printed and written as JSON.

  python -m launch.evaluate --workdir=runs/demo --set=evaluate.draws=32
  python -m launch.evaluate --workdir=runs/demo --set=data.source=files:a.txt

Another source than that of training is evaluated whole (zero-shot).
"""

import dataclasses
import json

import jax
from absl import flags

from launch import common, conflicts, heldout, lineage, zero_shot
from launch.restored import restore
from textdiffusion.core.paths import check_writable
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import open_data
from textdiffusion.viz.page import write

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A workdir or a step.')
OUT = flags.DEFINE_string('out', None, 'Where the JSON goes.')


def main() -> None:
  conflicts.check_evaluate()
  made = restore(CHECKPOINT.value)
  config, is_other = zero_shot.evaluated(made.config, made.saved)
  settings = lineage.within_holdout(made.run, config.data, made.tokenizer)
  config = dataclasses.replace(config, data=settings)
  data = open_data(settings, made.tokenizer, needs_training=False)
  # The report on other data has a name of its own beside the run's.
  is_own = data.fingerprint == made.run.data.get('fingerprint')
  name = f'{made.step}' if is_own else f'{made.step}-{data.fingerprint}'
  out = OUT.value or made.workdir / f'evaluation-{name}.json'
  check_writable(out, 'name a file that can be by --out')
  if not len(data.heldout):
    raise UserError(
      f'data.source={settings.source}: no document is held out from training: '
      'name another source, or train with a larger data.holdout'
    )
  report = heldout.evaluator(config, data, made.method, made.network, made.mesh)
  with jax.set_mesh(made.mesh):
    result = report(made.trained)
  if is_other:
    result['protocol'] += f'; zero-shot, trained on {made.saved.data.source}'
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
