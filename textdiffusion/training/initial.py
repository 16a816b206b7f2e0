"""Starts a new run from the parameters of another run."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from textdiffusion.core.paths import expand
from textdiffusion.core.types import PyTree, UserError
from textdiffusion.data import tokenizers
from textdiffusion.training.checkpoint import (
  load,
  load_method_state,
  read_checkpoint,
)
from textdiffusion.training.state import TrainState
from textdiffusion.training.workdir import (
  CHECKPOINTS,
  Run,
  complete_steps,
  read_json,
)


class Origin(NamedTuple):
  """The checkpoint that a run starts from.

  Attributes:
    path: the folder of the checkpoint, WORKDIR/checkpoints/STEP.
    run: the config, tokenizer and data of the run that saved it.
    shapes: shapes of its parameters.
    method_shapes: shapes of its method state, () for most methods.
  """

  path: Path
  run: Run
  shapes: PyTree
  method_shapes: PyTree

  @property
  def step(self) -> int:
    return int(self.path.name)


def find_origin(path: str) -> Origin:
  """Opens a checkpoint, or the newest one of a run.

  Raises:
    UserError: there is no checkpoint, or it cannot be read.
  """
  return Origin(*read_checkpoint(path))


def check_shapes(origin: Origin, params: PyTree) -> None:
  """Raises UserError if `params` and the checkpoint differ in shapes."""
  there, here = _shapes(origin.shapes), _shapes(params)
  wrong = [
    f'{name}: {_text(there.get(name))} there, {_text(here.get(name))} here'
    for name in sorted({*there, *here})
    if there.get(name) != here.get(name)
  ]
  if wrong:
    more = f' and {len(wrong) - 3} more' if len(wrong) > 3 else ''
    raise UserError(
      f'init_from={origin.path} holds the parameters of another network '
      f'({"; ".join(wrong[:3])}{more}): set model.* as there'
    )


def start_from(origin: Origin, state: TrainState) -> TrainState:
  """Returns a fresh `state` with the averaged parameters of the checkpoint.

  The step is 0 and the optimiser has no moments. The method state of the
  checkpoint is used as well if its shapes are the same.

  Raises:
    UserError: the checkpoint holds another network, or cannot be read.
  """
  check_shapes(origin, state.params)
  shardings = jax.tree.map(lambda x: x.sharding, state.params)
  loaded = load(str(origin.path), shardings)
  method_state, added = state.method_state, ''
  if jax.tree.leaves(method_state):
    added = '; the method starts afresh, as that run had another state'
    if _shapes(origin.method_shapes) == _shapes(method_state):
      added = ' and method state'
      like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        method_state,
      )
      method_state = load_method_state(loaded, like)
  if jax.process_index() == 0:
    print(f'started from the parameters of {origin.path}{added}', flush=True)
  return state._replace(
    params=loaded.params,
    # A copy, because `params` and `ema` are donated and cannot share buffers.
    ema=jax.tree.map(jnp.copy, loaded.params),
    method_state=method_state,
  )


class Start(NamedTuple):
  """What a run starts with.

  Attributes:
    origin: the checkpoint whose parameters the run starts from, if any.
    tokenizer: the tokenizer of that checkpoint, or of the run that is resumed.
    facts: what data.json records about the origin.
  """

  origin: Origin | None = None
  tokenizer: tokenizers.Tokenizer | None = None
  facts: dict[str, Any] = {}  # noqa: RUF012 never changed


def find_start(workdir: str, resume: bool, init_from: str | None) -> Start:
  """Reads from disk what the run in `workdir` starts with.

  Args:
    workdir: the folder of the run.
    resume: whether a run that is there goes on.
    init_from: a workdir or checkpoint to take the parameters from, if any.

  Raises:
    UserError: `init_from` holds no checkpoint, lies in `workdir`, or is not
      what the resumed run started from.
  """
  path = expand(workdir).absolute()
  if resume and (path / 'config.json').exists():
    return _resumed(path, init_from)
  if not init_from:
    return Start()
  origin = find_origin(init_from)
  if path in origin.path.parents:
    raise UserError(
      f'init_from={init_from} lies in workdir={workdir}: give the new run '
      'a folder of its own'
    )
  data = {
    name: origin.run.data[name]
    for name in ('fingerprint', 'init_from')
    if name in origin.run.data
  }
  config = {'data': origin.run.config['data']}
  facts = {'checkpoint': str(origin.path), 'config': config, 'data': data}
  tokenizer = tokenizers.from_json(origin.run.tokenizer)
  return Start(origin, tokenizer, {'init_from': facts})


def _resumed(path: Path, init_from: str | None) -> Start:
  """Returns the `Start` of a resumed run: it keeps its tokenizer and origin."""
  facts = read_json(path / 'data.json').get('init_from')
  began = facts and Path(facts['checkpoint'])
  if init_from:
    given = expand(init_from).absolute()
    if not began or given not in (began, *began.parents):
      raise UserError(
        f'init_from={init_from}: the run in workdir={path} started from '
        f'{began or "fresh parameters"}: leave init_from out to resume it'
      )
  saved = read_json(path / 'tokenizer.json')
  return Start(
    # Needed again only if the run ended before its first checkpoint.
    find_origin(str(began))
    if began and not complete_steps(path / CHECKPOINTS)
    else None,
    tokenizers.from_json(saved) if saved else None,
    {'init_from': facts} if facts else {},
  )


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
  """Returns the shape of each array by its path."""
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  return {_name(path): tuple(leaf.shape) for path, leaf in leaves}


def _name(path: tuple[object, ...]) -> str:
  """Joins a path as `a/b/0`.

  Keys, attributes and indices look the same, because tuples are saved as dicts.
  """
  parts = (
    str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key))))
    for key in path
  )
  return '/'.join(parts)


def _text(shape: tuple[int, ...] | None) -> str:
  return 'missing' if shape is None else str(list(shape))
