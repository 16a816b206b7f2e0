"""How parameters lie on the mesh: one table of paths and axes.

`tensor` splits what a matrix product makes (Shoeybi et al. 2019: columns of
the first product, rows of the second), `fsdp` the other side; a parameter that
no rule names is an error.
"""

import re
from typing import Any

import jax
from jax.sharding import PartitionSpec

from textdiffusion.core.types import PyTree

# (path, axes of the trailing dimensions); scanned layers lead with one more.
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
  (r'embedding', ('tensor', 'fsdp')),
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


def _spec(path: tuple[Any, ...], leaf: Any) -> PartitionSpec:
  name = '/'.join(str(entry.key) for entry in path)
  for pattern, axes in RULES:
    if re.fullmatch(
      pattern, re.sub(r'^(network/)?(encoder/)?(layers(_\d+)?/)?', '', name)
    ):
      ahead = (None,) * (len(leaf.shape) - len(axes))
      return PartitionSpec(*ahead, *axes)
  raise ValueError(f'no layout rule names the parameter {name} {leaf.shape}')
