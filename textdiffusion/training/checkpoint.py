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
import zlib
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from textdiffusion.core.types import Array, Interrupted, PyTree, UserError
from textdiffusion.training.mesh import laid
from textdiffusion.training.state import TrainState
from textdiffusion.training.workdir import CHECKPOINTS, Run, write_whole

_DAMAGED = 'damaged-'  # what a step is called once it was passed over
_TRIES = 2  # starts of several hosts that a checkpoint may end


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
      'sums': ocp.JsonCheckpointHandler(),
    },
  )


class Checkpointer:
  """Saves and restores the states of one run.

  failed: why the last save was not written, '' where it was.
  """

  def __init__(self, workdir: str | os.PathLike, keep: int):
    self._folder = Path(workdir).expanduser().absolute() / CHECKPOINTS
    self._manager = _manager(self._folder, max_to_keep=keep, create=True)
    self._tries = self._folder.parent / 'restoring.json'
    self._saving, self.failed = 0, ''

  def save(
    self, state: TrainState, iterator_state: dict[str, Any], run: Run
  ) -> None:
    """Returns as soon as the state is copied; writing goes on behind. Where it
    cannot be written, for want of space say, that is told and not raised."""
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
              **_told(parts),
              'iterator': _digest(iterator_state),
              'run': _digest(run._asdict()),
            }
          ),
        ),
      )

  def latest_step(self) -> int | None:
    """Of the newest complete checkpoint."""
    return self._manager.latest_step()

  def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """The newest state, laid out as `like` (arrays or shapes with shardings),
    and the data iterator's. Damaged ones are passed over, told and renamed.

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
      found = _told({name: got[name] for name in items})
      found |= {name: _digest(got[name]) for name in plain}
      wrong = [name for name in found if found[name] != got['sums'].get(name)]
      if wrong:
        raise ValueError(f'{", ".join(wrong)}: not what was saved')
  return got


def _digest(tree: dict[str, Any]) -> int:
  """Of what JSON takes."""
  return zlib.crc32(json.dumps(tree, sort_keys=True).encode())


def _told(parts: dict[str, PyTree]) -> dict[str, Any]:
  """By item, one number of each array: the same on every mesh."""
  sums = {name: jax.tree.leaves(_sums(item)) for name, item in parts.items()}
  return {name: [int(np.asarray(x)) for x in of] for name, of in sums.items()}


@jax.jit
def _sums(tree: PyTree) -> PyTree:
  """Of each array the sum of its words, each times an odd number of its place,
  modulo 2^32: a change of any one word changes it."""

  def one(x: Array) -> Array:
    size = min(x.dtype.itemsize, 4)
    if x.dtype == bool:
      x = x.astype(jnp.uint8)
    words = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{8 * size}'))
    words, weight = words.astype(jnp.uint32), jnp.uint32(1)
    for axis in range(words.ndim):
      place = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
      weight = weight * jnp.uint32(40503) + 2 * place
    return (words * weight).sum(dtype=jnp.uint32)

  return jax.tree.map(one, tree)


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


def load_method_state(loaded: Loaded, like: PyTree) -> PyTree:
  """What the method remembered at a checkpoint; like: shapes of it."""
  if not jax.tree.leaves(like):
    return like
  folder = loaded.workdir / CHECKPOINTS
  args = {'method': ocp.args.StandardRestore(like)}
  with contextlib.closing(_manager(folder, read_only=True)) as item:
    return _restored(item, folder / str(loaded.step), args)['method']


def load(path: str, shardings: PyTree | None = None) -> Loaded:
  """The newest checkpoint of a workdir, or the one at .../checkpoints/STEP.

  Args:
    path: of either.
    shardings: of the parameters; one device by default.

  A damaged newest one is passed over with a warning; a step asked for is not.

  Raises:
    UserError: nothing there to load.
  """
  folder, wanted = _located(path)
  with contextlib.closing(_manager(folder, read_only=True)) as item:
    there = sorted(item.all_steps(), reverse=True)
    steps = there if wanted is None else [wanted]
    if not set(steps) & set(there):
      mend = 'train one with launch.train --workdir'
      if there:
        mend = f'it has those of {", ".join(map(str, there[::-1]))}'
      which = 'checkpoint' if wanted is None else f'checkpoint of step {wanted}'
      raise UserError(f'no complete {which} in {folder}: {mend}')
    read = lambda step: _loaded(item, folder, step, shardings)
    return _newest(steps, read)[0]


def _loaded(
  item: ocp.CheckpointManager,
  folder: Path,
  step: int,
  shardings: PyTree | None,
) -> Loaded:
  path = folder / str(step)
  with _readable(path):
    shapes = dict(item.item_metadata(step)['ema'])
  if shardings is None:
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = jax.tree.map(lambda _: one, shapes)
  args = {'ema': ocp.args.StandardRestore(laid(shapes, shardings))}
  got = _restored(item, path, args, ('run',))
  return Loaded(got['ema'], step, Run(**got['run']), folder.parent)


def _located(path: str) -> tuple[Path, int | None]:
  """A workdir or a checkpoint -> (folder of checkpoints, step or None)."""
  given = Path(path).expanduser().absolute()
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
