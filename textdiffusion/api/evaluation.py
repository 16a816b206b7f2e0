"""`evaluate`: the held-out likelihood of a run, or that of another text."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from textdiffusion.api import evaluations, heldout, lineage, zero_shot
from textdiffusion.api.restore import Restored, restore
from textdiffusion.api.training import TrainingRun
from textdiffusion.core.paths import check_writable
from textdiffusion.core.types import UserError
from textdiffusion.data.pipeline import open_data
from textdiffusion.viz.page import write


def evaluate(
  run: TrainingRun | str | os.PathLike,
  overrides: Sequence[str] = (),
  *,
  out: str | os.PathLike | None = None,
) -> dict[str, Any]:
  """Reports the bound on -log p of held-out text, with errors and protocol.

  Args:
    run: what `train` returned, the folder of a run, or one of its checkpoints.
    overrides: `a.b=value` each, such as `evaluate.draws=32` or `data.source=
      files:other.txt`. A source that the run was not trained on is evaluated
      whole (zero-shot).
    out: where the report goes as JSON; by default evaluation-STEP.json in the
      folder of the run.

  Returns:
    bits_per_byte, bits_per_token, nats_per_token, perplexity, the standard
    error of each (`*_se`), terms of the bound, unigram and bigram of the same
    tokens (`baselines`), the protocol in words, and what `config.evaluators`
    measure (`evaluators`).

  Raises:
    UserError: nothing is held out, or the report cannot be written.
  """
  path = run.workdir if isinstance(run, TrainingRun) else run
  return evaluate_restored(restore(path, overrides), overrides, out)[0]


def evaluate_restored(
  made: Restored,
  overrides: Sequence[str] = (),
  out: str | os.PathLike | None = None,
) -> tuple[dict[str, Any], Path]:
  """Evaluates a checkpoint that is loaded already, as `evaluate` does.

  Returns:
    The report, and the file that it was written to.
  """
  has_holdout = zero_shot.has_holdout(overrides)
  config, is_other = zero_shot.evaluated(made.config, made.saved, has_holdout)
  settings = lineage.within_holdout(made.run, config.data, made.tokenizer)
  config = dataclasses.replace(config, data=settings)
  data = open_data(settings, made.tokenizer, needs_training=False)
  # The report on other data has a name of its own beside the run's.
  is_own = data.fingerprint == made.run.data.get('fingerprint')
  name = f'{made.step}' if is_own else f'{made.step}-{data.fingerprint}'
  target = Path(out or made.workdir / f'evaluation-{name}.json')
  check_writable(target, 'choose another file (out)')
  if not len(data.heldout):
    raise UserError(
      f'data.source={settings.source}: no document is held out from training: '
      'name another source, or train with a larger data.holdout'
    )
  report = heldout.evaluator(config, data, made.method, made.network, made.mesh)
  with jax.set_mesh(made.mesh):
    result = report(made.trained)
    subject = evaluations.subject_of(
      config, data, made.method, made.network, made.mesh
    )
    measured = evaluations.measured(config, subject, made.trained)
  if is_other:
    result['protocol'] += f'; zero-shot, trained on {made.saved.data.source}'
  result = {
    **result,
    **heldout.truth(config, data, result),
    'baselines': heldout.baselines(config, data),
    **({'evaluators': measured} if measured else {}),
    'step': made.step,
    'data_fingerprint': data.fingerprint,
  }
  write(str(target), json.dumps(result, indent=2) + '\n')
  return result, target
