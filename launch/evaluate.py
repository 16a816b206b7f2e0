"""Held-out likelihood of a checkpoint, printed and written as JSON.

  python -m launch.evaluate --workdir=runs/demo --set=evaluate.draws=32
"""

import json
from pathlib import Path

from absl import flags

from launch import common
from textdiffusion import config as config_lib
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import eval_batches, open_data, refuse_other
from textdiffusion.evals.likelihood import evaluate
from textdiffusion.viz.page import write

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A workdir or a step.')
WORKDIR = flags.DEFINE_string('workdir', None, 'The same as --checkpoint.')
CONFIG = flags.DEFINE_string('config', None, 'Data and evaluation of another.')
SET = flags.DEFINE_multi_string('set', [], 'a.b=value over the saved config.')
OUT = flags.DEFINE_string('out', None, 'A file for the JSON.')


def main() -> None:
  path = CHECKPOINT.value or WORKDIR.value
  if not path:
    raise UserError('--workdir is missing: name a workdir of launch.train')
  made = common.restore(path, [] if CONFIG.value else SET.value)
  config = made.config
  if CONFIG.value:
    config = config_lib.load(CONFIG.value, SET.value)
    refuse_other(config.data.tokenizer, made.tokenizer)
  data = open_data(config.data, made.tokenizer)
  size = config.evaluate.batch_size
  result = evaluate(
    made.method,
    made.denoiser,
    made.params,
    eval_batches(data.heldout, size, config.evaluate.rows),
    made.tokenizer.byte_lengths,
    config.evaluate,
    config.data.protocol(),
  )
  result |= {'step': made.step, 'data_fingerprint': data.fingerprint}
  text = json.dumps(result, indent=2)
  print(text)
  folder = Path(path) if Path(path, 'checkpoints').is_dir() else Path(path, '../..')
  write(OUT.value or folder / f'evaluation-{made.step}.json', text + '\n')


if __name__ == '__main__':
  common.run(main)
