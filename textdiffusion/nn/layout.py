"""Sharding of parameters and activations: one table from paths to mesh axes.

`tensor` splits the outputs of the first matrix product of a block and the
inputs of the second (Shoeybi et al. 2019); `fsdp` splits the other side. A
parameter without a rule is an error. Rows are split along `data` and `fsdp`,
and the tokens of a row along `sequence`.

The mesh is that of `jax.set_mesh`; without a mesh nothing is constrained.
Left to itself, the compiler sums partial activations over `fsdp` instead of
gathering a kernel (notes/log.md). So every kernel is explicitly constrained to
be gathered, and its gradient to be scattered.
"""

import functools
import math
import re
from typing import Any

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Float, Shaped

from textdiffusion.core.types import Array, PyTree

BATCH = ('data', 'fsdp')
Axis = str | tuple[str, ...] | None  # of the mesh, for one dimension

# (path, axes of the trailing dimensions); scanned layers have one more in
# front.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r'embedding', ('tensor', 'fsdp')),
  (r'positions', (None, 'fsdp')),
  (r'head/kernel', ('fsdp', 'tensor')),
  (r'(inlet|outlet)/up/kernel', ('fsdp', 'tensor')),
  (r'(inlet|outlet)/up/bias', ('tensor',)),
  (r'(inlet|outlet)/out/kernel', ('tensor', 'fsdp')),
  (r'(inlet|outlet)/out/bias', (None,)),
  (r'rounding_bias', ('tensor',)),
  (r'.*(attention|cross)/[qkv]/kernel', ('fsdp', 'tensor')),
  (r'.*(attention|cross)/out/kernel', ('tensor', 'fsdp')),
  (r'.*mlp/(gate|up)/kernel', ('fsdp', 'tensor')),
  (r'.*mlp/down/kernel', ('tensor', 'fsdp')),
  (r'.*adaln/kernel', ('fsdp', 'tensor')),
  (r'time/(up|out)/kernel', ('fsdp', 'tensor')),
  (r'.*((attention|cross)/[qkv]|mlp/(gate|up)|adaln)/bias', ('tensor',)),
  (r'.*((attention|cross)/out|mlp/down)/bias', (None,)),
  (r'time/(up|out)/bias', ('tensor',)),
  (r'(.*_)?norm/scale|.*norm/scale', (None,)),
  (r'method/.*', ()),  # Parameters of a method are small: not split.
)


def specs(params: PyTree) -> PyTree:
  """Returns the PartitionSpecs of parameters, or of their shapes.

  Raises:
    ValueError: a parameter has no rule.
  """
  return jax.tree_util.tree_map_with_path(_spec, params)


def platform() -> str:
  """Returns the platform of the compiled program: `tpu`, `gpu` or `cpu`.

  It is that of the mesh, whose devices this machine need not have.
  """
  device = getattr(jax.sharding.get_abstract_mesh(), 'abstract_device', None)
  return getattr(device, 'platform', None) or jax.default_backend()


def size_of(axis: str) -> int:
  """Returns the size of an axis of the current mesh, 1 without a mesh."""
  return dict(jax.sharding.get_abstract_mesh().shape).get(axis, 1)


def constrained(x: Array, *axes: Axis) -> Array:
  """Constrains the sharding of an array.

  A dimension that its axes do not divide evenly is not split.

  Args:
    x: the array.
    *axes: for each dimension an axis of the mesh, several axes, or None.
  """
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, _fitting(x.shape, axes))


def rows(
  x: Shaped[Array, 'B L ...'], last: str | None = None
) -> Shaped[Array, 'B L ...']:
  """Constrains the sharding of activations.

  Rows are split over the axes of the data, tokens over `sequence`, and the last
  dimension over the mesh axis `last`.
  """
  return constrained(x, BATCH, 'sequence', *(None,) * (x.ndim - 3), last)


def gathered(
  x: Float[Array, '...'], path: tuple[str, ...]
) -> Float[Array, '...']:
  """Gathers a parameter along `fsdp` for its use.

  Its gradient is reduce-scattered back to the shards of the parameter
  (Rajbhandari et al. 2020).

  Args:
    x: the parameter.
    path: path of the parameter.
  """
  if size_of('fsdp') == 1:
    return x
  axes = _axes('/'.join(path), x.shape)
  used = tuple(None if axis == 'fsdp' else axis for axis in axes)
  # The gradient of a table that is split along `tensor` is first summed in the
  # sharding of its use; otherwise the compiler would gather all of its rows.
  is_table = path[-1] == 'embedding' and size_of('tensor') > 1
  return _gathered(x, (used, axes) if is_table else (axes,), used)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: Array, back: tuple, used: tuple) -> Array:
  del back
  return constrained(x, *used)


def _scattered(
  back: tuple, used: tuple, _: None, gradient: Array
) -> tuple[Array]:
  del used
  for axes in back:
    gradient = constrained(gradient, *axes)
  return (gradient,)


_gathered.defvjp(
  lambda x, back, used: (constrained(x, *used), None), _scattered
)


def _fitting(shape: tuple[int, ...], axes: tuple[Axis, ...]) -> PartitionSpec:
  """Returns the spec of `axes`, without those that do not divide evenly."""
  sizes = dict(jax.sharding.get_abstract_mesh().shape)

  def fit(size: int, axis: Axis) -> Axis:
    names = (axis,) if isinstance(axis, str) else axis or ()
    return None if size % math.prod(sizes.get(n, 1) for n in names) else axis

  return PartitionSpec(*map(fit, shape, axes))


def _spec(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
  name = '/'.join(str(entry.key) for entry in path)
  return PartitionSpec(*_axes(name, leaf.shape))


@functools.cache
def _axes(name: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
  """Returns the axes of a parameter's dimensions by its rule."""
  inner = re.sub(r'^(network/)?(encoder/)?(layers(_\d+)?/)?', '', name)
  for pattern, axes in RULES:
    if re.fullmatch(pattern, inner):
      return (None,) * (len(shape) - len(axes)) + axes
  raise ValueError(f'no layout rule names the parameter {name} {shape}')
