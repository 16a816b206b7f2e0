"""Checkpoints of everything (Orbax, asynchronous).

  WORKDIR/checkpoints/STEP/{ema, state, iterator, run, sums} and method, what a
  method remembers, if anything

A checkpoint is complete or is not there: Orbax writes aside and renames. One
that was damaged since is found, by the sums of its arrays if not before, and
the one before it is taken; nothing is deleted but by `train.keep`.
"""

import contextlib
import json
import os
import sys
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from textdiffusion.core.paths import expand
from textdiffusion.core.types import Interrupted, PyTree, UserError
from textdiffusion.training.checksums import array_checksums, json_checksum
from textdiffusion.training.mesh import laid
from textdiffusion.training.plain_path import has_descriptors, plain_path
from textdiffusion.training.state import TrainState
from textdiffusion.training.workdir import (
  CHECKPOINTS,
  Run,
  complete_steps,
  write_whole,
)

_DAMAGED = 'damaged-'  # what a step is called once it was passed over
_TRIES = 2  # starts of several hosts that a checkpoint may end


def _manager(folder: Path, **options: Any) -> ocp.CheckpointManager:
  """Orbax's manager of the items."""
  plain, release = plain_path(folder, not options.get('read_only', False))
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


class Checkpointer:
  """Saves and restores the states of one run.

  failed: why the last save was not written, '' where it was.
  follows: whether a folder that is moved while it is open is still written to,
    where it is then.
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
    """Returns as soon as the state is copied; writing goes on behind. What
    cannot be written, for want of space say, is reported and not raised."""
    step = int(state.step)
    if step in self._manager.all_steps():
      return
    self.wait()  # the one before, whose failure is not this one's
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
    """Of the newest complete checkpoint."""
    return self._manager.latest_step()

  def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The newest state, laid out as `like` (arrays or shapes with shardings),
    and the data iterator's. Damaged ones are passed over, reported and renamed.

    Of several hosts one that cannot read its part can tell the others only by
    its end, for they wait for it within Orbax. So the first host notes what is
    tried, and what has ended a start twice is passed over in the third.

    Raises UserError where none can be read.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    read = lambda step: self._read(step, like)
    if jax.process_count() == 1:
      got, passed = _newest(steps, read)
    else:
      passed = self._given_up(steps)
      try:
        got = read(steps[len(passed)])
      except UserError as error:
        raise Interrupted(error) from None
      multihost_utils.sync_global_devices('restored')
    if jax.process_index() == 0:
      self._tries.unlink(missing_ok=True)
      for step in passed:
        _set_aside(self._folder / str(step))
    if passed:
      if jax.process_count() > 1:
        multihost_utils.sync_global_devices('damaged checkpoints')
      self._manager.reload()
    return got

  def _given_up(self, steps: list[int]) -> list[int]:
    """Of several hosts: the steps before the one to try, which is noted."""
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
      for passed in steps[:count]:
        print(
          f'warning: the checkpoint {self._folder / str(passed)} ended '
          f'{_TRIES} starts: it is damaged; going on from step {step}',
          file=sys.stderr,
        )
    count = int(multihost_utils.broadcast_one_to_all(np.asarray(count)))
    return steps[:count]

  def _read(
    self, step: int, like: TrainState
  ) -> tuple[TrainState, dict[str, Any]]:
    items = _parts(like)
    got = _restored(
      self._manager,
      self._folder / str(step),
      {name: ocp.args.StandardRestore(item) for name, item in items.items()},
      ('iterator',),
    )
    method_state = got['method'] if 'method' in items else like.method_state
    state = TrainState(
      ema=got['ema'], method_state=method_state, **got['state']
    )
    return state, got['iterator']

  def wait(self) -> None:
    """Until what was saved is on disk, or could not be written."""
    with self._tolerant():
      self._manager.wait_until_finished()

  @contextlib.contextmanager
  def _tolerant(self) -> Generator[None, None, None]:
    """A run outlives a checkpoint that cannot be written."""
    try:
      yield
    except Exception as error:  # Orbax and TensorStore have no type of it
      self.failed = ' '.join(str(error).split())[-300:]
      # What is complete is on disk; what is not, was not renamed.
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
    self.wait()  # whose failure must not hide why the run ends
    self._manager.close()


def _parts(state: TrainState) -> dict[str, PyTree]:
  """By item: the averaged parameters, what the method remembers, the rest."""
  rest = state._asdict()
  items = {'ema': rest.pop('ema'), 'method': rest.pop('method_state')}
  items['state'] = rest
  return {name: item for name, item in items.items() if jax.tree.leaves(item)}


def _restored(
  manager: ocp.CheckpointManager,
  path: Path,
  items: dict[str, Any],
  plain: tuple[str, ...] = (),
) -> Any:
  """Items of the checkpoint at `path`, and `plain` ones of JSON, whose arrays
  have the sums that they were saved with.

  Raises UserError where they cannot be read or do not.
  """
  has_sums = (path / 'sums').exists()  # older ones have none
  names = (*plain, 'sums') if has_sums else plain
  with _readable(path):
    got = manager.restore(
      int(path.name),
      args=ocp.args.Composite(
        **items, **{name: ocp.args.JsonRestore() for name in names}
      ),
    )
    if has_sums:
      found = array_checksums({name: got[name] for name in items})
      found |= {name: json_checksum(got[name]) for name in plain}
      wrong = [name for name in found if found[name] != got['sums'].get(name)]
      if wrong:
        raise ValueError(f'{", ".join(wrong)}: not what was saved')
  return got


def _newest(steps: list[int], read: Callable[[int], Any]) -> tuple[Any, list]:
  """What `read` makes of the first step that it can, and those before it.

  Raises the first UserError where there is none.
  """
  refusals: list[UserError] = []
  for step in steps:
    try:
      got = read(step)
    except UserError as error:
      refusals.append(error)
      continue
    for error in refusals:
      print(f'warning: {error}; going on from step {step}', file=sys.stderr)
    return got, steps[: len(refusals)]
  raise refusals[0]


def _set_aside(path: Path) -> None:
  """Renames a damaged checkpoint, so that its step can be saved anew."""
  number = 0
  while (aside := path.with_name(f'{_DAMAGED}{path.name}.{number}')).exists():
    number += 1
  path.rename(aside)


@contextlib.contextmanager
def _readable(path: Path) -> Generator[None, None, None]:
  """A checkpoint that cannot be read is the user's to mend, in one line."""
  try:
    yield
  except Exception as error:  # Orbax and TensorStore have no type of it
    why = ' '.join(str(error).split())[:200]
    raise UserError(
      f'the checkpoint {path} cannot be read: it is damaged, or of another '
      f'network ({why})'
    ) from error


class Loaded(NamedTuple):
  """A checkpoint for use: averaged parameters, step, and its run."""

  params: PyTree
  step: int
  run: Run
  workdir: Path


class Vanished(UserError):
  """A checkpoint that the run removed (`train.keep`) while it was read."""


def load_method_state(loaded: Loaded, like: PyTree) -> PyTree:
  """What the method remembered at a checkpoint; like: shapes of it.

  Raises:
    Vanished: the checkpoint was removed after `loaded` was read.
  """
  if not jax.tree.leaves(like):
    return like
  folder = loaded.workdir / CHECKPOINTS
  args = {'method': ocp.args.StandardRestore(like)}
  try:
    with contextlib.closing(_manager(folder, read_only=True)) as item:
      return _restored(item, folder / str(loaded.step), args)['method']
  except UserError as error:
    if loaded.step not in complete_steps(folder):
      raise _vanished(folder, loaded.step) from error
    raise


def load(path: str, shardings: Any = None) -> Loaded:
  """The newest checkpoint of a workdir, or the one at .../checkpoints/STEP.

  Args:
    path: of either.
    shardings: of the parameters, or a function of their shapes that returns
      them; one device by default.

  A damaged newest one is passed over with a warning; a step asked for is not.

  Raises:
    UserError: nothing there to load.
    Vanished: the run removed the step that was asked for.
  """
  folder, wanted = located(path)
  while True:
    there = sorted(complete_steps(folder), reverse=True)
    try:
      return _load(folder, wanted, there, shardings)
    except UserError as error:
      now = sorted(complete_steps(folder), reverse=True)
      if now == there:
        raise
      # A run that trains has saved one and removed another meanwhile.
      if wanted is not None and wanted not in now:
        if wanted in there:
          raise _vanished(folder, wanted) from error
        raise


def read_checkpoint(path: str) -> tuple[Path, Run, PyTree, PyTree]:
  """Reads everything but the arrays of the checkpoint that `load` would take.

  Returns:
    Its folder, its run, and the shapes of its parameters and method state.
  """
  folder, wanted = located(path)
  steps = complete_steps(folder)
  step = max(steps, default=0) if wanted is None else wanted
  _check_there(folder, wanted, steps)
  with contextlib.closing(_manager(folder, read_only=True)) as item:
    with _readable(folder / str(step)):
      items = item.item_metadata(step)
      shapes, method = dict(items['ema']), items.get('method')
    run = _restored(item, folder / str(step), {}, ('run',))['run']
  return folder / str(step), Run(**run), shapes, method


def _vanished(folder: Path, step: int) -> Vanished:
  return Vanished(
    f'the checkpoint {folder / str(step)} was removed while it was read: the '
    'run keeps only the newest ones (train.keep); name the workdir for the '
    'newest'
  )


def _load(
  folder: Path, wanted: int | None, there: list[int], shardings: Any
) -> Loaded:
  """`load` of one of the steps that are `there`, the newest first."""
  _check_there(folder, wanted, there)
  steps = there if wanted is None else [wanted]
  with contextlib.closing(_manager(folder, read_only=True)) as item:
    read = lambda step: _loaded(item, folder, step, shardings)
    return _newest(steps, read)[0]


def _check_there(folder: Path, wanted: int | None, there: list[int]) -> None:
  """Raises UserError where the step, or any, is not among those there are."""
  if wanted in there or (wanted is None and there):
    return
  mend = 'train one with launch.train --workdir'
  if there:
    mend = f'it has those of {", ".join(map(str, sorted(there)))}'
  which = 'checkpoint' if wanted is None else f'checkpoint of step {wanted}'
  raise UserError(f'no complete {which} in {folder}: {mend}')


def _loaded(
  item: ocp.CheckpointManager,
  folder: Path,
  step: int,
  shardings: Any,
) -> Loaded:
  path = folder / str(step)
  with _readable(path):
    shapes = dict(item.item_metadata(step)['ema'])
  if callable(shardings):
    shardings = shardings(shapes)
  if shardings is None:
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: one, shapes)
  args = {'ema': ocp.args.StandardRestore(laid(shapes, shardings))}
  got = _restored(item, path, args, ('run',))
  return Loaded(got['ema'], step, Run(**got['run']), folder.parent)


def located(path: str) -> tuple[Path, int | None]:
  """A workdir or a checkpoint -> (folder of checkpoints, step or None)."""
  given = expand(path).absolute()
  if given.name.isdecimal() and given.parent.name == CHECKPOINTS:
    folder, step = given.parent, int(given.name)
  else:
    folder = given if given.name == CHECKPOINTS else given / CHECKPOINTS
    step = None
  if not folder.is_dir():
    raise UserError(
      f'no checkpoint at {path}: name a workdir of launch.train or one of its '
      f'{CHECKPOINTS}/STEP'
    )
  return folder, step
