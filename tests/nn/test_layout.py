"""Every parameter of every form has a rule, and a sensible one."""

import itertools
import re

import jax
import pytest
from jax.sharding import PartitionSpec

from textdiffusion.core.types import Features
from textdiffusion.nn.layout import RULES, specs
from textdiffusion.nn.transformer import Transformer, TransformerConfig


@pytest.mark.parametrize('time', ['none', 'additive', 'adaln'])
@pytest.mark.parametrize('scan', ['scan', 'unroll'])
def test_every_parameter_has_a_rule(time, scan):
  """Of the settings only `mlp` and `use_bias` name parameters together."""
  for mlp, bias in itertools.product(('gelu', 'swiglu', 'glu'), (False, True)):
    config = TransformerConfig(
      num_layers=2,
      d_model=16,
      num_heads=2,
      mlp=mlp,
      use_bias=bias,
      tied=bias,
      qk_norm=mlp == 'gelu',
      time=time,
      scan=scan,
    )
    shapes = jax.eval_shape(Transformer(config, 9).init, jax.random.key(0))
    is_spec = lambda x: isinstance(x, PartitionSpec)
    pairs = zip(
      jax.tree.leaves(shapes),
      jax.tree.leaves(specs(shapes), is_leaf=is_spec),
      strict=True,
    )
    for leaf, spec in pairs:
      assert len(spec) == len(leaf.shape)


@pytest.mark.parametrize('scan, ahead', [('scan', (None,)), ('unroll', ())])
def test_products_are_split_as_megatron_does(scan, ahead):
  config = TransformerConfig(num_layers=1, d_model=16, num_heads=2, scan=scan)
  shapes = jax.eval_shape(Transformer(config, 9).init, jax.random.key(0))
  layer = specs(shapes)['layers' if scan == 'scan' else 'layers_0']
  first = PartitionSpec(*ahead, 'fsdp', 'tensor')
  second = PartitionSpec(*ahead, 'tensor', 'fsdp')
  assert layer['attention']['q']['kernel'] == first
  assert layer['attention']['out']['kernel'] == second
  assert layer['mlp']['up']['kernel'] == first
  assert layer['mlp']['down']['kernel'] == second


UP, DOWN = ('fsdp', 'tensor'), ('tensor', 'fsdp')
# What a product makes is split by `tensor` in the first of two products, what
# it takes in the second; `fsdp` splits the other side of a matrix.
EXPECTED = {
  'embedding': DOWN,
  'positions': (None, 'fsdp'),
  'rounding_bias': ('tensor',),
  'head/kernel': UP,
  'inlet/up/kernel': UP,
  'inlet/up/bias': ('tensor',),
  'inlet/out/kernel': DOWN,
  'inlet/out/bias': (None,),
  'outlet/up/kernel': UP,
  'outlet/up/bias': ('tensor',),
  'outlet/out/kernel': DOWN,
  'outlet/out/bias': (None,),
  'time/up/kernel': UP,
  'time/up/bias': ('tensor',),
  'time/out/kernel': UP,
  'time/out/bias': ('tensor',),
  'norm/scale': (None,),
  'adaln/kernel': UP,
  'adaln/bias': ('tensor',),
  'mlp/gate/kernel': UP,
  'mlp/gate/bias': ('tensor',),
  'mlp/up/kernel': UP,
  'mlp/up/bias': ('tensor',),
  'mlp/down/kernel': DOWN,
  'mlp/down/bias': (None,),
  **{f'{name}_norm/scale': (None,) for name in ('attention', 'cross', 'mlp')},
  **{
    f'{kind}/{name}/{leaf}': axes
    for kind in ('attention', 'cross')
    for name, leaf, axes in (
      *((name, 'kernel', UP) for name in 'qkv'),
      *((name, 'bias', ('tensor',)) for name in 'qkv'),
      ('out', 'kernel', DOWN),
      ('out', 'bias', (None,)),
      ('q_norm', 'scale', (None,)),
      ('k_norm', 'scale', (None,)),
    )
  },
}


def parameters_of(**settings):
  """{path within its layer: axes} of a network, layers not stacked."""
  features = settings.pop('features', None)
  config = TransformerConfig(
    num_layers=1, d_model=16, num_heads=2, use_bias=True, **settings
  )
  network = Transformer(config, 9, features=features)
  shapes = jax.eval_shape(network.init, jax.random.key(0))
  is_spec = lambda x: isinstance(x, PartitionSpec)
  found = {}
  for path, spec in jax.tree_util.tree_leaves_with_path(
    specs(shapes), is_leaf=is_spec
  ):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    name = name.replace('encoder/', '').replace('layers_0/', '')
    assert found.setdefault(name, tuple(spec)) == tuple(spec), name
  return found


def test_every_parameter_lies_where_the_table_says():
  """Of a network of tokens with an encoder, and of one of features: together
  they have each parameter of the table, and no other."""
  found = parameters_of(time='adaln', encoder_layers=1, max_positions=4)
  found |= parameters_of(time='additive', features=Features(5))
  assert found == EXPECTED


def test_every_rule_of_the_layout_has_a_parameter():
  """The first rule that names a parameter is the one that applies."""
  names = [*EXPECTED, 'method/power']
  used = {
    next(rule for rule, _ in RULES if re.fullmatch(rule, name))
    for name in names
  }
  assert used == {rule for rule, _ in RULES}


def test_a_parameter_without_a_rule_is_an_error():
  shape = jax.ShapeDtypeStruct((3, 4), float)
  with pytest.raises(ValueError, match='no layout rule names.*novel'):
    specs({'novel': {'kernel': shape}})


def test_parameters_of_a_method_stand_beside_the_network():
  config = TransformerConfig(num_layers=1, d_model=16, num_heads=2)
  shapes = jax.eval_shape(Transformer(config, 9).init, jax.random.key(0))
  own = {'power': jax.ShapeDtypeStruct((9,), float)}
  both = specs({'network': shapes, 'method': own})
  assert both['network'] == specs(shapes)
  assert both['method']['power'] == PartitionSpec(None)
