"""How parameters and activations lie on the mesh: one table of paths and axes.

`tensor` splits what a matrix product makes (Shoeybi et al. 2019: columns of
the first product, rows of the second), `fsdp` the other side; a parameter that
no rule names is an error. Rows lie along `data` and `fsdp`, their tokens along
`sequence`.

The mesh is that of `jax.set_mesh`; without one nothing has a layout.
What is left open the compiler decides, and it decides badly: it sums partial
activations over `fsdp` rather than gather a kernel (notes/log.md). So every
kernel says that it is gathered, and its gradient that it is scattered.
"""

import functools
import math
import re
from typing import Any

import jax
from jax.sharding import PartitionSpec

from textdiffusion.core.types import Array, PyTree

BATCH = ('data', 'fsdp')

# (path, axes of the trailing dimensions); scanned layers lead with one more.
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
  (r'method/.*', ()),  # what a method learns is small: whole everywhere
)


def specs(params: PyTree) -> PyTree:
  """Parameters (or their shapes) -> PartitionSpecs of the same structure.

  Raises ValueError for a parameter without a rule.
  """
  return jax.tree_util.tree_map_with_path(_spec, params)


def platform() -> str:
  """What the program is compiled for: `tpu`, `gpu` or `cpu`; that of the mesh,
  which may be one that this machine has not."""
  device = getattr(jax.sharding.get_abstract_mesh(), 'abstract_device', None)
  return getattr(device, 'platform', None) or jax.default_backend()


def size_of(axis: str) -> int:
  """Of an axis of the mesh in use, 1 without one."""
  return dict(jax.sharding.get_abstract_mesh().shape).get(axis, 1)


def constrained(x: Array, *axes: Any) -> Array:
  """x as it lies: for each dimension an axis, several or None. One that its
  axes do not divide stays whole."""
  if jax.sharding.get_abstract_mesh().empty:
    return x
  return jax.lax.with_sharding_constraint(x, _fitting(x.shape, axes))


def rows(x: Array, last: str | None = None) -> Array:
  """Activations [B, L, ...], of which the last dimension lies along `last`."""
  return constrained(x, BATCH, 'sequence', *(None,) * (x.ndim - 3), last)


def gathered(x: Array, path: tuple[str, ...]) -> Array:
  """A parameter as it is used: whole along `fsdp`. Its gradient is summed and
  scattered again to where the parameter lies (Rajbhandari et al. 2020)."""
  if size_of('fsdp') == 1:
    return x
  axes = _axes('/'.join(path), x.shape)
  used = tuple(None if axis == 'fsdp' else axis for axis in axes)
  # Rows of a table that is split by `tensor` are first summed where they are
  # used: to move them to where they lie, the compiler would gather all rows.
  is_table = path[-1] == 'embedding' and size_of('tensor') > 1
  return _gathered(x, (used, axes) if is_table else (axes,), used)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gathered(x: Array, back: tuple, used: tuple) -> Array:
  del back
  return constrained(x, *used)


def _scattered(back: tuple, used: tuple, _: None, gradient: Array) -> Any:
  del used
  for axes in back:
    gradient = constrained(gradient, *axes)
  return (gradient,)


_gathered.defvjp(
  lambda x, back, used: (constrained(x, *used), None), _scattered
)


def _fitting(shape: tuple[int, ...], axes: Any) -> PartitionSpec:
  sizes = dict(jax.sharding.get_abstract_mesh().shape)

  def fit(size: int, axis: Any) -> Any:
    names = (axis,) if isinstance(axis, str) else axis or ()
    return None if size % math.prod(sizes.get(n, 1) for n in names) else axis

  return PartitionSpec(*map(fit, shape, axes))


def _spec(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
  name = '/'.join(str(entry.key) for entry in path)
  return PartitionSpec(*_axes(name, leaf.shape))


@functools.cache
def _axes(name: str, shape: tuple[int, ...]) -> tuple[str | None, ...]:
  inner = re.sub(r'^(network/)?(encoder/)?(layers(_\d+)?/)?', '', name)
  for pattern, axes in RULES:
    if re.fullmatch(pattern, inner):
      return (None,) * (len(shape) - len(axes)) + axes
  raise ValueError(f'no layout rule names the parameter {name} {shape}')
