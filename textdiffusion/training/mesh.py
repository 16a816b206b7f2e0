"""The device mesh, and the sharding of parameters and batches over it."""

import collections
import dataclasses
from collections.abc import Iterator, Sequence

import chex
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Shaped

from textdiffusion.core.memory import check_memory
from textdiffusion.core.types import Array, PyTree, UserError
from textdiffusion.nn import layout

_BATCH = layout.BATCH
_AXES = ('data', 'fsdp', 'sequence', 'tensor')


@dataclasses.dataclass(frozen=True)
class MeshConfig:
  """Devices along each axis of the mesh; -1 uses all that the others leave.

  Attributes:
    data: axis along which parameters are replicated and rows are split.
    fsdp: axis along which both parameters and rows are split.
    tensor: axis along which the inside of each layer is split.
    sequence: axis along which the tokens of a row are split; every device
      attends to the keys and values of the whole row.
  """

  data: int = -1
  fsdp: int = 1
  tensor: int = 1
  sequence: int = 1


def check_platforms() -> None:
  """Raises UserError if JAX_PLATFORMS names a platform that is missing here."""
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


def make_mesh(
  config: MeshConfig, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Returns a mesh over `devices`, all of them by default.

  Raises:
    UserError: the sizes of the axes do not multiply to the number of devices.
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
  """Yields meshes worth trying on `count` devices.

  First pure fsdp, then fsdp with some tensor or data parallelism.
  """
  yield MeshConfig(data=1, fsdp=count)
  for other in (2, 4):
    if count % other == 0 and count > other:
      yield MeshConfig(data=1, fsdp=count // other, tensor=other)
      yield MeshConfig(data=other, fsdp=count // other)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int) -> None:
  """Raises UserError if the mesh cannot split a global batch evenly.

  Args:
    mesh: the device mesh.
    batch_size: rows of the global batch.
    accumulate: parts in which the batch is computed, one after another.
  """
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
  """Raises UserError if the state of training cannot fit into memory.

  A parameter takes at least 16 bytes: itself, its average and its gradient in
  float32, and two moments in bfloat16.

  Args:
    count: number of parameters.
    mesh: the mesh that splits them.
  """
  parts = mesh.shape['fsdp'] * mesh.shape['tensor']
  check_memory(
    16 * count / parts,
    f'training {count:,} parameters',
    'lower the sizes of model, or raise mesh.fsdp',
  )


def _check_hosts(mesh: Mesh) -> None:
  """Raises UserError if the mesh splits a row over hosts.

  Each host feeds an equal share of the rows. The devices that share a row,
  along `sequence` and `tensor`, must therefore belong to one host.
  """
  split = mesh.shape['sequence'] * mesh.shape['tensor']
  devices = np.asarray(mesh.devices).reshape(-1, split)
  owners = [{device.process_index for device in row} for row in devices]
  shares = collections.Counter(min(row) for row in owners)
  if max(map(len, owners)) > 1 or len(set(shares.values())) > 1:
    raise UserError(
      f'mesh.tensor={mesh.shape["tensor"]} splits a row over hosts, which feed '
      'rows of their own: let it and mesh.sequence divide the devices of a host'
    )


def _check_rows(batch: dict[str, Shaped[np.ndarray, 'B ...']]) -> None:
  """Raises UserError unless all arrays of a batch have equally many rows."""
  chex.assert_equal_shape_prefix(
    [np.asarray(value) for value in batch.values()],
    1,
    custom_message=f'the arrays of a batch ({", ".join(batch)}) need one row '
    'for each of its sequences',
    include_default_message=False,
    exception_type=UserError,
  )


def put_batch(
  mesh: Mesh, batch: dict[str, Shaped[np.ndarray, 'B ...']]
) -> dict[str, Array]:
  """Turns this host's rows into sharded arrays of the global batch.

  Raises:
    UserError: the arrays differ in their number of rows.
  """
  _check_rows(batch)
  sharding = NamedSharding(mesh, PartitionSpec(_BATCH))
  return {
    name: jax.make_array_from_process_local_data(sharding, np.asarray(value))
    for name, value in batch.items()
  }


def put_whole(
  mesh: Mesh, batch: dict[str, Shaped[np.ndarray, 'B ...']]
) -> dict[str, Array]:
  """Turns a batch that is equal on all hosts into global arrays.

  Evaluation uses this. If the mesh cannot split the rows evenly, every device
  holds all of them.

  Raises:
    UserError: the arrays differ in their number of rows.
  """
  _check_rows(batch)
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
  """Returns the sharding that keeps a whole copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def with_shardings(shapes: PyTree, shardings: PyTree) -> PyTree:
  """Returns the shapes of arrays (or of shapes) with the given shardings."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def param_shardings(mesh: Mesh, params: PyTree) -> PyTree:
  """Returns the shardings of parameters, given as arrays or shapes.

  A dimension that an axis does not divide evenly is not split.
  """

  def fit(
    leaf: Array | jax.ShapeDtypeStruct, spec: PartitionSpec
  ) -> NamedSharding:
    axes = [
      axis if axis is None or size % mesh.shape[axis] == 0 else None
      for size, axis in zip(leaf.shape, spec)
    ]
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree.map(fit, params, layout.specs(params))


def state_shardings(mesh: Mesh, state: PyTree, params: PyTree) -> PyTree:
  """Returns the shardings of a whole training state.

  Trees with the structure of the parameters (their average, the optimiser's
  moments) are sharded as the parameters are; all else is replicated.

  Args:
    mesh: the device mesh.
    state: the state, or its shapes.
    params: its parameters, or their shapes.
  """
  like = jax.tree.structure(params)
  shardings = param_shardings(mesh, params)
  is_params = lambda node: jax.tree.structure(node) == like
  return jax.tree.map(
    lambda node: shardings if is_params(node) else replicated(mesh),
    state,
    is_leaf=is_params,
  )
