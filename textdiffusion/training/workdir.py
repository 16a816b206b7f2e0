"""The folder of a run and the JSON files that define the run.

A workdir holds config.json, tokenizer.json, data.json, metrics.jsonl,
checkpoints, and owner.json while a process trains in it.
"""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from textdiffusion.core.paths import expand
from textdiffusion.core.types import UserError
from textdiffusion.training.ownership import (
  OWNER,
  PATIENCE,
  InUse,
  Owner,
  claim,
  no_owner,
)
from textdiffusion.training.plain_path import check_plain

CHECKPOINTS = 'checkpoints'
# Options of a run in messages, as a launcher and as Python name them.
RESUME = '--resume (in Python resume=True)'
OVERWRITE = '--overwrite (in Python overwrite=True)'
# Fields that a resumed run may change, as past steps do not depend on them.
_FREE = (
  'train.steps',
  'train.log_every',
  'train.eval_every',
  'train.checkpoint_every',
  'train.keep',
  'train.max_bad_steps',
  'train.patience',
  'model.remat',
  'sampler',
  'evaluate.',
  'evaluators',
  'mesh.',
)
# These may change too if the data are the same: the fingerprint is computed
# from the contents, not from the paths.
_PATHS = ('data.source', 'data.tokenizer.path')
# The reason why other fields may not change, by the first part of their names.
_REASONS = {
  'data': 'the run would continue with other rows or in another order',
  'method': 'the checkpoints belong to another method',
  'model': 'the checkpoints hold the parameters of another network',
  'train': 'the steps already taken would not be those of this config',
}
_LAUNCHER_PATIENCE = 120.0  # Seconds to wait for the lock of a lost host.


class Run(NamedTuple):
  """The definition of a run, as JSON values.

  Attributes:
    config: the config.
    tokenizer: the tokenizer, model file included.
    data: fingerprint and counts of the dataset.
  """

  config: dict[str, Any]
  tokenizer: dict[str, Any]
  data: dict[str, Any]


def prepare_workdir(
  workdir: str,
  run: Run,
  resume: bool = False,
  overwrite: bool = False,
  complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda saved: saved,
  tries: int = 0,
) -> Owner:
  """Creates the folder of a run, or checks that the run may be resumed in it.

  Nothing is deleted: `overwrite` renames the old folder. All hosts call this;
  only the first one reads and writes, and all raise if it does.

  Args:
    workdir: the folder.
    run: the definition of the run.
    resume: whether to resume the run that the folder holds.
    overwrite: whether to rename a folder that holds a run.
    complete: adds the fields that a saved config of an older version lacks.
    tries: starts allowed from the same checkpoint; 0 does not count them.

  Returns:
    The owner of the folder, which the caller closes when the run has ended.

  Raises:
    UserError: the folder holds another run, or holds this run without `resume`
      or `overwrite`, or another process trains in it, or too many starts ended
      without a new checkpoint.
  """
  error = None
  if '://' in workdir:
    raise UserError(
      f'workdir={workdir}: must be a folder of the file system; mount the '
      'bucket'
    )
  path = expand(workdir).absolute()
  owner = no_owner(path)
  if jax.process_index() == 0:
    try:
      owner = _claim(path, workdir, resume, overwrite, tries)
      _prepare(path, workdir, run, resume, complete)
      _count(path, tries)
    except UserError as refusal:
      error = refusal
    except OSError as problem:
      error = UserError(
        f'workdir={workdir}: {problem.strerror or problem}: name a folder '
        'that can be written'
      )
  if jax.process_count() > 1:
    is_refused = multihost_utils.broadcast_one_to_all(
      np.asarray(error is not None)
    )
    if is_refused and error is None:
      error = UserError(f'workdir={workdir}: refused by the first host')
  if error is not None:
    owner.close()
    raise error
  return owner


def _claim(
  path: Path, workdir: str, resume: bool, overwrite: bool, tries: int
) -> Owner:
  """Locks the folder; with `overwrite` a run in it is renamed first."""
  if resume and overwrite:
    raise UserError('resume and overwrite exclude each other')
  if path.exists() and not path.is_dir():
    raise UserError(f'workdir={workdir} is a file: name a folder')
  for above in (path, *path.parents):
    if above.name == CHECKPOINTS and (above.parent / 'config.json').exists():
      raise UserError(
        f'workdir={workdir} lies within the run {above.parent}: name that, '
        'or a folder outside of it'
      )
  check_plain(path)
  is_run = (path / 'config.json').exists() or (path / CHECKPOINTS).exists()
  # Only a run is renamed. Other folders keep their names and contents.
  if overwrite and is_run:
    _move_aside(path)
  # A launcher restarts a run that lost a host, and a network file system may
  # keep the lock of that host for a while.
  return claim(path, _LAUNCHER_PATIENCE if tries else PATIENCE)


def _move_aside(path: Path) -> None:
  """Renames a folder. A run that still trains in it detects that and ends."""
  holder = ''
  try:
    owner = claim(path, 0.0)
  except InUse as error:
    owner, holder = no_owner(path), error.holder
  with owner:
    number = 1
    while (aside := path.with_name(f'{path.name}.bak-{number}')).exists():
      number += 1
    shutil.move(path, aside)
    if not holder:
      (aside / OWNER).unlink()
  print(f'moved the old {path} to {aside}')
  if holder:
    print(
      f'warning: {holder} still trains there, and will end with a checkpoint',
      file=sys.stderr,
    )


def _prepare(
  path: Path,
  workdir: str,
  run: Run,
  resume: bool,
  complete: Callable[[dict[str, Any]], dict[str, Any]],
) -> None:
  """Checks and writes the JSON files of a folder that this process owns."""
  saved = path / 'config.json'
  steps = complete_steps(path / CHECKPOINTS)
  data: dict[str, Any] | None = None
  if saved.exists():
    data = read_json(path / 'data.json') if resume else None
    _check_same(
      workdir, complete(read_json(saved)), data, run, max(steps, default=0)
    )
  elif steps:
    raise UserError(
      f'workdir={workdir} holds checkpoints but no config.json: use another '
      f'folder, or {OVERWRITE} to move it aside'
    )
  if saved.exists() and not resume:
    raise UserError(
      f'workdir={workdir} holds this run already: {RESUME} continues it, '
      f'{OVERWRITE} moves it aside'
    )
  for name, value in run._asdict().items():
    write_whole(path / f'{name}.json', json.dumps(value, indent=2))


def _check_same(
  workdir: str,
  config: dict[str, Any],
  data: dict[str, Any] | None,
  run: Run,
  step: int,
) -> None:
  """Raises UserError if `run` cannot continue the saved run.

  Args:
    workdir: the folder, for messages.
    config: the saved config.
    data: the saved description of the data; None if the run is not resumed.
    run: the run that is to be resumed.
    step: step of the newest checkpoint.
  """
  was, now = (data or {}).get('fingerprint'), run.data.get('fingerprint')
  differences = _differences(config, run.config, '')
  paths = [line for name, line in differences if name in _PATHS]
  if data and was != now:
    raise UserError(
      f'workdir={workdir} was trained on other data (fingerprint {was}, '
      f'now {now}{"".join("; " + line for line in paths)}): restore them, or '
      'use another folder'
    )
  free = (*_FREE, *_PATHS) if was is not None else _FREE
  changed = [(n, line) for n, line in differences if not n.startswith(free)]
  if changed:
    lines = '; '.join(line for _, line in changed[:3])
    lines += '; ...' if len(changed) > 3 else ''
    part = changed[0][0].split('.')[0]
    reason = f', and {_REASONS[part]}' if part in _REASONS else ''
    raise UserError(
      f'workdir={workdir} holds another config ({lines}){reason}: use '
      f'another folder (init_from={workdir} starts from its parameters), or '
      f'{OVERWRITE} to move it aside'
    )
  steps = run.config.get('train', {}).get('steps', step)
  if data is not None and steps < step:
    raise UserError(
      f'train.steps={steps}: workdir={workdir} has a checkpoint of step '
      f'{step}: set train.steps to at least {step}, or use another folder'
    )
  for name, line in differences:
    if data is not None and name == 'train.steps':
      print(
        f'{line}: the learning rate now follows the schedule of {steps} steps'
      )


def _count(path: Path, tries: int) -> None:
  """Counts a start from the newest checkpoint.

  Raises:
    UserError: there were `tries` starts from it already.
  """
  if not tries:
    return
  file = path / 'starts.json'
  newest = max(complete_steps(path / CHECKPOINTS), default=0)
  last = read_json(file)
  starts = last.get('starts', 0) + 1 if last.get('step') == newest else 1
  if starts > tries:
    raise UserError(
      f'{tries} starts have ended without a checkpoint after step {newest}: '
      f'fix the errors in their logs, and remove {file}'
    )
  write_whole(file, json.dumps({'step': newest, 'starts': starts}))


def read_json(path: Path) -> dict[str, Any]:
  """Reads a JSON file of a workdir; {} if it does not exist.

  Raises:
    UserError: the file does not hold a JSON object.
  """
  value = None
  with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
    value = json.loads(path.read_text()) if path.exists() else {}
  if not isinstance(value, dict):
    raise UserError(
      f'{path} is not the JSON that a run writes: use another folder, or '
      f'{OVERWRITE} to move it aside'
    )
  return value


def complete_steps(folder: Path) -> list[int]:
  """Returns the steps of the complete checkpoints in `folder`.

  Only complete checkpoints have a plain number as name.
  """
  if not folder.is_dir():
    return []
  return [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]


def _differences(old: object, new: object, name: str) -> list[tuple[str, str]]:
  """Returns (dotted name, `name: old -> new`) for every leaf that differs."""
  if isinstance(old, dict) and isinstance(new, dict):
    return [
      pair
      for key in sorted({*old, *new})
      for pair in _differences(
        old.get(key), new.get(key), f'{name}.{key}' if name else key
      )
    ]
  if old == new:
    return []
  return [(name, f'{name}: {old!r} -> {new!r}')]


def write_whole(path: Path, text: str) -> None:
  """Writes a file atomically."""
  scratch = path.with_name(path.name + '.tmp')
  scratch.write_text(text)
  os.replace(scratch, path)
