"""Held-out likelihood of a checkpoint, printed and written as JSON.

  python -m launch.evaluate --workdir=runs/demo --set=evaluate.draws=32
  python -m launch.evaluate --workdir=runs/demo --set=data.source=files:a.txt

Another source than that of training is evaluated whole (zero-shot).
"""

import json

from absl import flags

from textdiffusion.api.evaluation import evaluate_restored

from . import common, conflicts
from .restored import restored

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A workdir or a step.')
OUT = flags.DEFINE_string('out', None, 'Where the JSON goes.')


def main() -> None:
  conflicts.check_evaluate()
  made = restored(CHECKPOINT.value)
  report = evaluate_restored(made, common.SET.value, OUT.value)
  print(json.dumps(report, indent=2))


if __name__ == '__main__':
  common.run(main)
