"""The folder of a run: what makes the run what it is, as JSON.

WORKDIR/config.json, tokenizer.json, data.json, metrics.jsonl, checkpoints
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from textdiffusion.core.types import UserError

CHECKPOINTS = 'checkpoints'
# Fields that a resumed run may change, as no result depends on them.
_FREE = (
  'train.log_every',
  'train.eval_every',
  'train.checkpoint_every',
  'train.keep',
  'train.patience',
  'sample.',
  'evaluate.',
  'mesh.',
)


class Run(NamedTuple):
  """What makes a run what it is, as JSON: config, tokenizer, data.

  data holds the dataset's fingerprint and counts.
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
) -> None:
  """Makes the folder of a run, or checks that this run may go on in it.

  Nothing is deleted: `overwrite` moves what was there aside. Of several hosts
  the first looks and writes; all of them call this, and share its verdict.

  complete: a config of an older version -> one with the fields of this one.
  tries: starts from the same checkpoint, where they are counted.

  Raises:
    UserError: it holds another run, or this one and no flag says what to do;
      or there were so many starts.
  """
  error = None
  if '://' in workdir:
    raise UserError(
      f'--workdir={workdir}: must be a folder of the file system; mount the '
      'bucket'
    )
  if jax.process_index() == 0:
    try:
      _prepare(workdir, run, resume, overwrite, complete)
      _count(Path(workdir).expanduser(), tries)
    except UserError as refusal:
      error = refusal
    except OSError as problem:
      error = UserError(
        f'--workdir={workdir}: {problem.strerror or problem}: name a folder '
        'that can be written'
      )
  if jax.process_count() > 1:
    is_refused = multihost_utils.broadcast_one_to_all(
      np.asarray(error is not None)
    )
    if is_refused and error is None:
      error = UserError(f'--workdir={workdir}: refused by the first host')
  if error is not None:
    raise error


def _prepare(
  workdir: str, run: Run, resume: bool, overwrite: bool, complete: Any
) -> None:
  """`prepare_workdir` of one host."""
  if resume and overwrite:
    raise UserError('--resume and --overwrite exclude each other')
  path = Path(workdir).expanduser().absolute()
  if path.exists() and not path.is_dir():
    raise UserError(f'--workdir={workdir} is a file: name a folder')
  saved, checkpoints = path / 'config.json', path / CHECKPOINTS
  # Only a run is moved: a folder of other things keeps its place and them.
  if overwrite and (saved.exists() or checkpoints.exists()):
    number = 1
    while (aside := path.with_name(f'{path.name}.bak-{number}')).exists():
      number += 1
    shutil.move(path, aside)
    print(f'moved the old {path} to {aside}')
  if saved.exists():
    changed = [
      line
      for name, line in _differences(complete(_saved(saved)), run.config, '')
      if not name.startswith(_FREE)
    ]
    if changed:
      told = '; '.join(changed[:3]) + ('; ...' if len(changed) > 3 else '')
      raise UserError(
        f'--workdir={workdir} holds another config ({told}): use another '
        'folder, or --overwrite to move it aside'
      )
  elif _steps(checkpoints):
    raise UserError(
      f'--workdir={workdir} holds checkpoints but no config.json: use '
      'another folder, or --overwrite to move it aside'
    )
  if saved.exists():
    if not resume:
      raise UserError(
        f'--workdir={workdir} holds this run already: --resume goes on with '
        'it, --overwrite moves it aside'
      )
    data = path / 'data.json'
    if data.exists():
      was, now = _saved(data).get('fingerprint'), run.data.get('fingerprint')
      if was != now:
        raise UserError(
          f'--workdir={workdir} was trained on other data (fingerprint {was}, '
          f'now {now}): restore them, or use another folder'
        )
  path.mkdir(parents=True, exist_ok=True)
  for name, value in run._asdict().items():
    write_whole(path / f'{name}.json', json.dumps(value, indent=2))


def _count(path: Path, tries: int) -> None:
  """Notes a start from the newest checkpoint; refuses one too many."""
  if not tries:
    return
  file = path / 'starts.json'
  newest = max(_steps(path / CHECKPOINTS), default=0)
  told = _saved(file) if file.exists() else {}
  starts = told.get('starts', 0) + 1 if told.get('step') == newest else 1
  if starts > tries:
    raise UserError(
      f'{tries} starts have ended without a checkpoint after step {newest}: '
      f'mend what their logs tell, and remove {file}'
    )
  write_whole(file, json.dumps({'step': newest, 'starts': starts}))


def _saved(path: Path) -> dict[str, Any]:
  """A JSON file of a workdir."""
  try:
    return json.loads(path.read_text())
  except (json.JSONDecodeError, UnicodeDecodeError):
    raise UserError(
      f'{path} is not the JSON that a run writes: use another folder, or '
      '--overwrite to move it aside'
    ) from None


def _steps(folder: Path) -> list[int]:
  """Of the complete checkpoints, which alone have a plain number's name."""
  if not folder.is_dir():
    return []
  return [int(p.name) for p in folder.iterdir() if p.name.isdecimal()]


def _differences(old: Any, new: Any, name: str) -> list[tuple[str, str]]:
  """(dotted name, `name: old -> new`) of every leaf that differs."""
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
  """Whole or not at all."""
  scratch = path.with_name(path.name + '.tmp')
  scratch.write_text(text)
  os.replace(scratch, path)
