"""Asynchronous checkpoints of a whole run, written by Orbax.

  WORKDIR/checkpoints/STEP/{ema, state, iterator, run, sums}, and `method` with
  the method state if the method has one

A checkpoint is either complete or absent, because Orbax writes to a temporary
folder and renames it. A checkpoint that is damaged later is detected, at the
latest by the checksums of its arrays, and the one before it is used. Only
`train.keep` deletes checkpoints.
"""

import contextlib
import json
import logging
import os
import sys
import weakref
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from textdiffusion.core.paths import expand
from textdiffusion.core.types import Interrupted, PyTree, UserError
from textdiffusion.training.checksums import array_checksums, json_checksum
from textdiffusion.training.mesh import with_shardings
from textdiffusion.training.plain_path import has_descriptors, plain_path
from textdiffusion.training.state import TrainState
from textdiffusion.training.workdir import (
  CHECKPOINTS,
  Run,
  complete_steps,
  write_whole,
)

T = TypeVar('T')
_DAMAGED = 'damaged-'  # Prefix of the folder name of a damaged checkpoint.
# A checkpoint that ended this many starts on several hosts counts as damaged.
_TRIES = 2


def _manager(folder: Path, **options: Any) -> ocp.CheckpointManager:
  """Returns Orbax's manager of the checkpoints in `folder`.

  The options are fields of `ocp.CheckpointManagerOptions`.
  """
  plain, release = plain_path(folder, not options.get('read_only', False))
  with _without_read_only_warnings():
    manager = ocp.CheckpointManager(
      plain,
      options=ocp.CheckpointManagerOptions(**options),
      item_handlers={
        'ema': ocp.StandardCheckpointHandler(),
        'state': ocp.StandardCheckpointHandler(),
        'method': ocp.StandardCheckpointHandler(),
        'iterator': ocp.JsonCheckpointHandler(),
        'run': ocp.JsonCheckpointHandler(),
        'sums': ocp.JsonCheckpointHandler(),
      },
    )
  weakref.finalize(manager, release)
  return manager


@contextlib.contextmanager
def _without_read_only_warnings() -> Generator[None, None, None]:
  """Drops what Orbax warns of in every manager that only reads.

  It names its own defaults, which it changes, and the folder.
  """
  logger = logging.getLogger('absl')
  words = 'read_only=True', 'is read only'
  is_kept = lambda record: not any(word in str(record.msg) for word in words)
  logger.addFilter(is_kept)
  try:
    yield
  finally:
    logger.removeFilter(is_kept)


class Checkpointer:
  """Saves and restores the states of one run.

  Attributes:
    failed: the reason why the last save was not written, '' if it was written.
    follows: whether saves still reach the folder after it was moved.
  """

  def __init__(self, workdir: str | os.PathLike, keep: int):
    self._folder = expand(workdir).absolute() / CHECKPOINTS
    self._folder.parent.mkdir(parents=True, exist_ok=True)
    self._manager = _manager(self._folder, max_to_keep=keep, create=True)
    self._tries = self._folder.parent / 'restoring.json'
    self._saving, self.failed = 0, ''
    self.follows = has_descriptors()

  def save(
    self, state: TrainState, iterator_state: dict[str, Any], run: Run
  ) -> None:
    """Saves a checkpoint, unless there is one of this step.

    Returns as soon as the state is copied; the files are written in the
    background. An error while writing, such as a full disk, is printed and kept
    in `failed`, not raised.

    Args:
      state: the state of training.
      iterator_state: the state of the data iterator.
      run: what is needed to load the checkpoint.
    """
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    self.wait()  # So that an error of the previous save is reported as its own.
    self._saving, self.failed = step, ''
    parts = _parts(state)
    save = ocp.args.StandardSave
    items = {name: save(item) for name, item in parts.items()}
    with self._tolerant():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          **items,
          iterator=ocp.args.JsonSave(iterator_state),
          run=ocp.args.JsonSave(run._asdict()),
          sums=ocp.args.JsonSave(
            {
              **array_checksums(parts),
              'iterator': json_checksum(iterator_state),
              'run': json_checksum(run._asdict()),
            }
          ),
        ),
      )

  def latest_step(self) -> int | None:
    """Returns the step of the newest complete checkpoint, None without one."""
    return self._manager.latest_step()

  def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Restores the newest checkpoint that can be read.

    Damaged checkpoints are skipped, reported and renamed.

    With several hosts, all of them wait for each other inside Orbax, so a host
    that cannot read its part can only exit, which ends the run. Therefore the
    first host records which checkpoint is tried, and a checkpoint that has
    ended two starts is skipped in the third.

    Args:
      like: arrays, or shapes with shardings, in the layout of the state.

    Returns:
      The state of training and the state of the data iterator.

    Raises:
      UserError: no checkpoint can be read.
      Interrupted: one of several hosts cannot read its part.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    read = lambda step: self._read(step, like)
    if jax.process_count() == 1:
      restored, skipped = _newest_readable(steps, read)
    else:
      skipped = self._skipped_steps(steps)
      try:
        restored = read(steps[len(skipped)])
      except UserError as error:
        raise Interrupted(error) from None
      multihost_utils.sync_global_devices('restored')
    if jax.process_index() == 0:
      self._tries.unlink(missing_ok=True)
      for step in skipped:
        _rename_damaged(self._folder / str(step))
    if skipped:
      if jax.process_count() > 1:
        multihost_utils.sync_global_devices('damaged checkpoints')
      self._manager.reload()
    return restored

  def _skipped_steps(self, steps: list[int]) -> list[int]:
    """Returns the steps that several hosts skip before the one they try.

    The first host records the step that is tried.
    """
    count = 0
    if jax.process_index() == 0:
      tries: dict[str, int] = {}
      with contextlib.suppress(OSError, ValueError):
        tries = json.loads(self._tries.read_text())
      while (
        count < len(steps) - 1 and tries.get(str(steps[count]), 0) >= _TRIES
      ):
        count += 1
      step = str(steps[count])
      write_whole(
        self._tries, json.dumps({**tries, step: tries.get(step, 0) + 1})
      )
      for skipped in steps[:count]:
        print(
          f'warning: the checkpoint {self._folder / str(skipped)} ended '
          f'{_TRIES} starts, so it counts as damaged; continuing from step '
          f'{step}',
          file=sys.stderr,
        )
    count = int(multihost_utils.broadcast_one_to_all(np.asarray(count)))
    return steps[:count]

  def _read(
    self, step: int, like: TrainState
  ) -> tuple[TrainState, dict[str, Any]]:
    items = _parts(like)
    restored = _restore_items(
      self._manager,
      self._folder / str(step),
      {name: ocp.args.StandardRestore(item) for name, item in items.items()},
      ('iterator',),
    )
    method_state = like.method_state
    if 'method' in items:
      method_state = restored['method']
    state = TrainState(
      ema=restored['ema'], method_state=method_state, **restored['state']
    )
    return state, restored['iterator']

  def wait(self) -> None:
    """Waits until the last save is on disk or has failed."""
    with self._tolerant():
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _tolerant(self) -> Generator[None, None, None]:
    """Reports an error while writing, so that it does not end the run."""
    try:
      yield
    except Exception as error:  # Orbax and TensorStore have no common type.
      self.failed = ' '.join(str(error).split())[-300:]
      # Complete checkpoints are on disk; an incomplete one was not renamed.
      newest = None
      if self._folder.is_dir():
        self._manager.reload()
        newest = self.latest_step()
      kept = 'there is none before it'
      if newest is not None:
        kept = f'that of step {newest} is the newest'
      print(
        f'warning: the checkpoint of step {self._saving} was not written '
        f'({self.failed}); {kept}',
        file=sys.stderr,
        flush=True,
      )

  def close(self) -> None:
    self.wait()  # Reports errors, so that they do not hide why the run ends.
    self._manager.close()


def _parts(state: TrainState) -> dict[str, PyTree]:
  """Splits a state into items: averaged parameters, method state, the rest."""
  rest = state._asdict()
  items = {'ema': rest.pop('ema'), 'method': rest.pop('method_state')}
  items['state'] = rest
  return {name: item for name, item in items.items() if jax.tree.leaves(item)}


def _restore_items(
  manager: ocp.CheckpointManager,
  path: Path,
  items: Mapping[str, ocp.args.CheckpointArgs],
  plain: tuple[str, ...] = (),
) -> Mapping[str, Any]:
  """Restores items of the checkpoint at `path` and verifies their checksums.

  Args:
    manager: the manager of the folder that holds the checkpoint.
    path: the folder of the checkpoint.
    items: name -> restore arguments of each item of arrays.
    plain: names of the JSON items.

  Returns:
    The items by name.

  Raises:
    UserError: an item cannot be read, or its checksum is wrong.
  """
  has_sums = (path / 'sums').exists()  # Older checkpoints have no checksums.
  names = (*plain, 'sums') if has_sums else plain
  with _readable(path):
    restored = manager.restore(
      int(path.name),
      args=ocp.args.Composite(
        **items, **{name: ocp.args.JsonRestore() for name in names}
      ),
    )
    if has_sums:
      found = array_checksums({name: restored[name] for name in items})
      found |= {name: json_checksum(restored[name]) for name in plain}
      saved = restored['sums']
      wrong = [name for name in found if found[name] != saved.get(name)]
      if wrong:
        raise ValueError(f'{", ".join(wrong)}: not what was saved')
  return restored


def _newest_readable(
  steps: list[int], read: Callable[[int], T]
) -> tuple[T, list[int]]:
  """Returns the result of the first `read(step)` without a UserError.

  The steps before it are returned as well.

  Raises:
    UserError: no step can be read; the error is that of the first step.
  """
  errors: list[UserError] = []
  for step in steps:
    try:
      result = read(step)
    except UserError as error:
      errors.append(error)
      continue
    for error in errors:
      print(f'warning: {error}; continuing from step {step}', file=sys.stderr)
    return result, steps[: len(errors)]
  raise errors[0]


def _rename_damaged(path: Path) -> None:
  """Renames a damaged checkpoint, so that its step can be saved again."""
  number = 0
  while (aside := path.with_name(f'{_DAMAGED}{path.name}.{number}')).exists():
    number += 1
  path.rename(aside)


@contextlib.contextmanager
def _readable(path: Path) -> Generator[None, None, None]:
  """Turns any error while reading `path` into a UserError of one line."""
  try:
    yield
  except Exception as error:  # Orbax and TensorStore have no common type.
    why = ' '.join(str(error).split())[:200]
    raise UserError(
      f'the checkpoint {path} cannot be read: it is damaged, or of another '
      f'network ({why})'
    ) from error


class Loaded(NamedTuple):
  """A checkpoint loaded for sampling or evaluation.

  Attributes:
    params: averaged parameters.
    step: training step of the checkpoint.
    run: config, tokenizer and data of the run that saved it.
    workdir: folder of that run.
  """

  params: PyTree
  step: int
  run: Run
  workdir: Path


class Vanished(UserError):
  """The run removed the checkpoint (`train.keep`) while it was read."""


def load_method_state(loaded: Loaded, like: PyTree) -> PyTree:
  """Loads the method state of a checkpoint.

  Args:
    loaded: the checkpoint.
    like: shapes of the method state; without any, `like` itself is returned.

  Raises:
    UserError: the method state cannot be read.
    Vanished: the checkpoint was removed after `loaded` was read.
  """
  if not jax.tree.leaves(like):
    return like
  folder = loaded.workdir / CHECKPOINTS
  args = {'method': ocp.args.StandardRestore(like)}
  try:
    with contextlib.closing(_manager(folder, read_only=True)) as item:
      return _restore_items(item, folder / str(loaded.step), args)['method']
  except UserError as error:
    if loaded.step not in complete_steps(folder):
      raise _vanished(folder, loaded.step) from error
    raise


def load(path: str, shardings: PyTree = None) -> Loaded:
  """Loads the newest checkpoint of a workdir, or the one of a given step.

  A damaged newest checkpoint is skipped with a warning. If `path` names a step,
  only that step is read.

  Args:
    path: a workdir, or WORKDIR/checkpoints/STEP.
    shardings: shardings of the parameters, or a function that maps the shapes
      of the parameters to them; one device by default.

  Raises:
    UserError: there is no checkpoint to load, or it cannot be read.
    Vanished: the run removed the requested step while it was read.
  """
  folder, wanted = find_checkpoints(path)
  while True:
    there = sorted(complete_steps(folder), reverse=True)
    try:
      return _load(folder, wanted, there, shardings)
    except UserError as error:
      now = sorted(complete_steps(folder), reverse=True)
      if now == there:
        raise
      # Meanwhile a run in progress saved a checkpoint and removed another.
      if wanted is not None and wanted not in now:
        if wanted in there:
          raise _vanished(folder, wanted) from error
        raise


def read_checkpoint(path: str) -> tuple[Path, Run, PyTree, PyTree]:
  """Reads a checkpoint without its arrays: the one that `load` would load.

  Returns:
    Its folder, its run, and the shapes of its parameters and method state.

  Raises:
    UserError: there is no such checkpoint, or it cannot be read.
  """
  folder, wanted = find_checkpoints(path)
  steps = complete_steps(folder)
  step = max(steps, default=0) if wanted is None else wanted
  _check_there(folder, wanted, steps)
  with contextlib.closing(_manager(folder, read_only=True)) as item:
    with _readable(folder / str(step)):
      items = item.item_metadata(step)
      shapes, method = dict(items['ema']), items.get('method')
    run = _restore_items(item, folder / str(step), {}, ('run',))['run']
  return folder / str(step), Run(**run), shapes, method


def _vanished(folder: Path, step: int) -> Vanished:
  return Vanished(
    f'the checkpoint {folder / str(step)} was removed while it was read: the '
    'run keeps only the newest ones (train.keep); name the workdir for the '
    'newest'
  )


def _load(
  folder: Path, wanted: int | None, there: list[int], shardings: PyTree
) -> Loaded:
  """Loads the wanted step, or else the newest readable one of `there`."""
  _check_there(folder, wanted, there)
  steps = there if wanted is None else [wanted]
  with contextlib.closing(_manager(folder, read_only=True)) as item:
    read = lambda step: _load_step(item, folder, step, shardings)
    return _newest_readable(steps, read)[0]


def _check_there(folder: Path, wanted: int | None, there: list[int]) -> None:
  """Raises UserError if `wanted` is not in `there`, or `there` is empty."""
  if wanted in there or (wanted is None and there):
    return
  mend = 'train one there first, with launch.train or td.train'
  if there:
    mend = f'it has those of {", ".join(map(str, sorted(there)))}'
  which = 'checkpoint' if wanted is None else f'checkpoint of step {wanted}'
  raise UserError(f'no complete {which} in {folder}: {mend}')


def _load_step(
  item: ocp.CheckpointManager,
  folder: Path,
  step: int,
  shardings: PyTree,
) -> Loaded:
  path = folder / str(step)
  with _readable(path):
    shapes = dict(item.item_metadata(step)['ema'])
  if callable(shardings):
    shardings = shardings(shapes)
  if shardings is None:
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: one, shapes)
  args = {'ema': ocp.args.StandardRestore(with_shardings(shapes, shardings))}
  restored = _restore_items(item, path, args, ('run',))
  return Loaded(restored['ema'], step, Run(**restored['run']), folder.parent)


def find_checkpoints(path: str) -> tuple[Path, int | None]:
  """Finds the checkpoints that a path names.

  Args:
    path: a workdir, its folder of checkpoints, or a checkpoint in it.

  Returns:
    The folder of checkpoints, and the step if `path` names one.

  Raises:
    UserError: there is no such folder.
  """
  given = expand(path).absolute()
  if given.name.isdecimal() and given.parent.name == CHECKPOINTS:
    folder, step = given.parent, int(given.name)
  else:
    folder = given if given.name == CHECKPOINTS else given / CHECKPOINTS
    step = None
  if not folder.is_dir():
    raise UserError(
      f'no checkpoint at {path}: name the folder of a run or one of its '
      f'{CHECKPOINTS}/STEP'
    )
  return folder, step
