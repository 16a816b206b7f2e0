"""Evaluates the held-out likelihood of a checkpoint; prints JSON.

  python -m launch.evaluate --workdir=runs/demo --set=evaluate.draws=32
  python -m launch.evaluate --workdir=runs/demo --set=data.source=files:a.txt

All documents of a source that was not used for training are evaluated
(zero-shot).
"""

import json
import sys

from absl import flags

from textdiffusion.api.evaluation import evaluate_restored

from . import common, conflicts
from .options import refuse_settings
from .restored import load_checkpoint

CHECKPOINT = flags.DEFINE_string('checkpoint', None, 'A workdir or a step.')
OUT = flags.DEFINE_string('out', None, 'File to write the JSON to.')


def main() -> None:
  conflicts.check_evaluate()
  loaded = load_checkpoint(CHECKPOINT.value)
  if not loaded.config.evaluators:
    reason = 'it needs --set=evaluators=..., as the likelihood draws no samples'
    refuse_settings(conflicts.SAMPLING, reason)
  report, path = evaluate_restored(loaded, common.SET.value, OUT.value)
  print(json.dumps(report, indent=2))
  print(f'wrote {path}', file=sys.stderr)


if __name__ == '__main__':
  common.run(main)
