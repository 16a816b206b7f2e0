"""The device mesh, and where parameters and batches lie on it."""

import collections
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from textdiffusion.core.memory import check_memory
from textdiffusion.core.types import Array, PyTree, UserError
from textdiffusion.nn import layout

_BATCH = layout.BATCH
_AXES = ('data', 'fsdp', 'sequence', 'tensor')


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis; -1 takes what the others leave.

  data: copies of the parameters, each with its rows. fsdp: parameters and
  rows split. tensor: the inside of each layer split. sequence: the tokens of a
  row split; each sees the keys and values of all.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  sequence: int = 1


def check_platforms() -> None:
  """Raises UserError where JAX_PLATFORMS names what this machine lacks."""
  names = getattr(jax.config, 'jax_platforms')  # noqa: B009 untyped
  if not names:
    return
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    why = str(error).partition('\n')[0] or 'there is no such device'
    raise UserError(
      f'JAX_PLATFORMS={names}: {why}; leave it unset, or set it to cpu'
    ) from None


def make_mesh(config: MeshConfig, devices: Any = None) -> Mesh:
  """A mesh over `devices`, all of them by default.

  Raises UserError where the axes do not multiply to their number.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [getattr(config, axis) for axis in _AXES]
  shape = 'mesh ' + ' x '.join(map(str, sizes)) + f' ({", ".join(_AXES)})'
  if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
    raise UserError(f'{shape}: one axis may be -1, the others are at least 1')
  if -1 in sizes:
    rest = -int(np.prod(sizes))
    sizes[sizes.index(-1)] = max(len(devices) // rest, 1)
  if int(np.prod(sizes)) != len(devices):
    raise UserError(
      f'{shape} does not cover {len(devices)} devices: set mesh.data, '
      'mesh.fsdp, mesh.sequence and mesh.tensor so that they multiply to that'
    )
  return jax.make_mesh(
    tuple(sizes),
    _AXES,
    axis_types=(AxisType.Auto,) * len(_AXES),
    devices=devices,
  )


def candidates(count: int) -> Iterator[MeshConfig]:
  """Worth trying on so many devices: all fsdp, or some tensor or data."""
  yield MeshConfig(data=1, fsdp=count)
  for other in (2, 4):
    if count % other == 0 and count > other:
      yield MeshConfig(data=1, fsdp=count // other, tensor=other)
      yield MeshConfig(data=other, fsdp=count // other)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int) -> None:
  """Raises UserError for a global batch that the mesh cannot split."""
  if jax.process_count() > 1:
    _check_hosts(mesh)
  if batch_size % accumulate:
    raise UserError(
      f'data.batch_size={batch_size} is not divisible by '
      f'train.accumulate={accumulate}'
    )
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  if (batch_size // accumulate) % shards:
    raise UserError(
      f'data.batch_size={batch_size} in {accumulate} part(s) is not divisible '
      f'by the mesh, data x fsdp = {shards}: change data.batch_size or mesh'
    )


def check_parameters(count: int, mesh: Mesh) -> None:
  """Raises UserError where the state of training exceeds memory for certain.

  count: of the parameters. There are their mean and a gradient too, in float32,
  and two moments, in bfloat16 at least.
  """
  parts = mesh.shape['fsdp'] * mesh.shape['tensor']
  check_memory(
    16 * count / parts,
    f'training {count:,} parameters',
    'lower the sizes of model, or raise mesh.fsdp',
  )


def _check_hosts(mesh: Mesh) -> None:
  """Each host feeds rows of its own, an equal share of them; the copies of a
  row along `sequence` and `tensor` must therefore lie on one host."""
  split = mesh.shape['sequence'] * mesh.shape['tensor']
  devices = np.asarray(mesh.devices).reshape(-1, split)
  owners = [{device.process_index for device in row} for row in devices]
  shares = collections.Counter(min(row) for row in owners)
  if max(map(len, owners)) > 1 or len(set(shares.values())) > 1:
    raise UserError(
      f'mesh.tensor={mesh.shape["tensor"]} splits a row over hosts, which feed '
      'rows of their own: let it and mesh.sequence divide the devices of a host'
    )


def put_batch(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, Array]:
  """This host's rows -> arrays of the global batch."""
  sharding = NamedSharding(mesh, PartitionSpec(_BATCH))
  return {
    name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
    for name, value in batch.items()
  }


def put_whole(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, Array]:
  """The same batch on every host -> one global array of it, as evaluation
  needs; rows that the mesh does not split evenly are copied everywhere."""
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  rows = len(next(iter(batch.values())))
  spec = PartitionSpec(_BATCH) if rows % shards == 0 else PartitionSpec()
  sharding = NamedSharding(mesh, spec)

  def put(value: np.ndarray) -> Array:
    value = np.asarray(value)
    return jax.make_array_from_callback(
      value.shape, sharding, lambda index: value[index]
    )

  return {name: put(value) for name, value in batch.items()}


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def laid(shapes: PyTree, shardings: PyTree) -> PyTree:
  """Arrays or their shapes -> shapes that lie so."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def param_shardings(mesh: Mesh, params: PyTree) -> PyTree:
  """Parameters or their shapes -> shardings; a dimension that an axis does
  not divide stays whole."""

  def fit(leaf: Any, spec: PartitionSpec) -> NamedSharding:
    axes = [
      axis if axis is None or size % mesh.shape[axis] == 0 else None
      for size, axis in zip(leaf.shape, spec)
    ]
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree.map(fit, params, layout.specs(params))


def state_shardings(mesh: Mesh, state: Any, params: PyTree) -> Any:
  """Shardings of a whole state: what looks like the parameters (their mean,
  the optimiser's moments) lies as they do, the rest everywhere."""
  like = jax.tree.structure(params)
  shardings = param_shardings(mesh, params)
  is_params = lambda node: jax.tree.structure(node) == like
  return jax.tree.map(
    lambda node: shardings if is_params(node) else replicated(mesh),
    state,
    is_leaf=is_params,
  )
