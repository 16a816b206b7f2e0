"""Checkpoints of everything (Orbax, asynchronous), and the folder of a run.

  WORKDIR/config.json, tokenizer.json, data.json, metrics.jsonl
  WORKDIR/checkpoints/STEP/{ema, state, iterator, run} and method, what a method
  remembers, if anything

A checkpoint is complete or is not there: Orbax writes aside and renames.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from textdiffusion.core.types import PyTree, UserError
from textdiffusion.training.state import TrainState

_FOLDER = 'checkpoints'
# Fields that a resumed run may change, as no result depends on them.
_FREE = (
  'train.log_every',
  'train.eval_every',
  'train.checkpoint_every',
  'train.keep',
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


def _manager(folder: Path, **options: Any) -> ocp.CheckpointManager:
  """Orbax's manager of the items."""
  return ocp.CheckpointManager(
    folder,
    options=ocp.CheckpointManagerOptions(**options),
    item_handlers={
      'ema': ocp.StandardCheckpointHandler(),
      'state': ocp.StandardCheckpointHandler(),
      'method': ocp.StandardCheckpointHandler(),
      'iterator': ocp.JsonCheckpointHandler(),
      'run': ocp.JsonCheckpointHandler(),
    },
  )


class Checkpointer:
  """Saves and restores the states of one run."""

  def __init__(self, workdir: str | os.PathLike, keep: int):
    self._folder = Path(workdir).expanduser().absolute() / _FOLDER
    self._manager = _manager(self._folder, max_to_keep=keep, create=True)

  def save(
    self, state: TrainState, iterator_state: dict[str, Any], run: Run
  ) -> None:
    """Returns as soon as the state is copied; writing goes on behind."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    save = ocp.args.StandardSave
    items = {name: save(item) for name, item in _parts(state).items()}
    self._manager.save(
      step,
      args=ocp.args.Composite(
        **items,
        iterator=ocp.args.JsonSave(iterator_state),
        run=ocp.args.JsonSave(run._asdict()),
      ),
    )

  def latest_step(self) -> int | None:
    """Of the newest complete checkpoint."""
    return self._manager.latest_step()

  def restore(
    self, like: TrainState, step: int | None = None
  ) -> tuple[TrainState, dict[str, Any]]:
    """The state laid out as `like` (arrays or shapes with shardings), and the
    data iterator's."""
    step = self.latest_step() if step is None else step
    restore = ocp.args.StandardRestore
    items = {name: restore(item) for name, item in _parts(like).items()}
    with _readable(self._folder / str(step)):
      got = self._manager.restore(
        step,
        args=ocp.args.Composite(**items, iterator=ocp.args.JsonRestore()),
      )
    method_state = got['method'] if 'method' in items else like.method_state
    state = TrainState(
      ema=got['ema'], method_state=method_state, **got['state']
    )
    return state, got['iterator']

  def wait(self) -> None:
    """Until what was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


def _parts(state: TrainState) -> dict[str, PyTree]:
  """By item: the averaged parameters, what the method remembers, the rest."""
  rest = state._asdict()
  items = {'ema': rest.pop('ema'), 'method': rest.pop('method_state')}
  items['state'] = rest
  return {name: item for name, item in items.items() if jax.tree.leaves(item)}


@contextlib.contextmanager
def _readable(path: Path) -> Generator[None, None, None]:
  """A checkpoint that cannot be read is the user's to mend, in one line."""
  try:
    yield
  except (ValueError, OSError, KeyError) as error:
    why = ' '.join(str(error).split())[:200]
    raise UserError(
      f'the checkpoint {path} cannot be read: it is damaged or of another '
      f'network; move it away to use the one before it ({why})'
    ) from error


class Loaded(NamedTuple):
  """A checkpoint for use: averaged parameters, step, and its run."""

  params: PyTree
  step: int
  run: Run
  workdir: Path


def load_method_state(loaded: Loaded, like: PyTree) -> PyTree:
  """What the method remembered at a checkpoint; like: shapes of it."""
  if not jax.tree.leaves(like):
    return like
  folder = loaded.workdir / _FOLDER
  with (
    contextlib.closing(_manager(folder, read_only=True)) as item,
    _readable(folder / str(loaded.step)),
  ):
    args = ocp.args.Composite(method=ocp.args.StandardRestore(like))
    return item.restore(loaded.step, args=args)['method']


def load(path: str, shardings: PyTree | None = None) -> Loaded:
  """The newest checkpoint of a workdir, or the one at .../checkpoints/STEP.

  Args:
    path: of either.
    shardings: of the parameters; one device by default.

  Raises:
    UserError: nothing there to load.
  """
  folder, wanted = _located(path)
  with contextlib.closing(_manager(folder, read_only=True)) as item:
    there = item.all_steps()
    step = item.latest_step() if wanted is None else wanted
    if step is None or step not in there:
      mend = 'train one with launch.train --workdir'
      if there:
        mend = f'it has those of {", ".join(map(str, sorted(there)))}'
      which = 'checkpoint' if wanted is None else f'checkpoint of step {wanted}'
      raise UserError(f'no complete {which} in {folder}: {mend}')
    with _readable(folder / str(step)):
      shapes = dict(item.item_metadata(step)['ema'])
      if shardings is None:
        one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: one, shapes)
      like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=sharding
        ),
        shapes,
        shardings,
      )
      got = item.restore(
        step,
        args=ocp.args.Composite(
          ema=ocp.args.StandardRestore(like), run=ocp.args.JsonRestore()
        ),
      )
      return Loaded(got['ema'], step, Run(**got['run']), folder.parent)


def _located(path: str) -> tuple[Path, int | None]:
  """A workdir or a checkpoint -> (folder of checkpoints, step or None)."""
  given = Path(path).expanduser().absolute()
  if given.name.isdecimal() and given.parent.name == _FOLDER:
    folder, step = given.parent, int(given.name)
  else:
    folder = given if given.name == _FOLDER else given / _FOLDER
    step = None
  if not folder.is_dir():
    raise UserError(
      f'no checkpoint at {path}: name a workdir of launch.train or one of its '
      f'{_FOLDER}/STEP'
    )
  return folder, step


def prepare_workdir(
  workdir: str,
  run: Run,
  resume: bool = False,
  overwrite: bool = False,
  complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda saved: saved,
) -> None:
  """Makes the folder of a run, or checks that this run may go on in it.

  Nothing is deleted: `overwrite` moves what was there aside. Of several hosts
  the first looks and writes; all of them call this, and share its verdict.

  complete: a config of an older version -> one with the fields of this one.

  Raises:
    UserError: it holds another run, or this one and no flag says what to do.
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
  saved, checkpoints = path / 'config.json', path / _FOLDER
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
    _write(path / f'{name}.json', json.dumps(value, indent=2))


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


def _write(path: Path, text: str) -> None:
  """Whole or not at all."""
  scratch = path.with_name(path.name + '.tmp')
  scratch.write_text(text)
  os.replace(scratch, path)
