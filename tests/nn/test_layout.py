"""Every parameter of every form has a rule, and a sensible one."""

import itertools

import jax
import pytest
from jax.sharding import PartitionSpec

from textdiffusion.nn.layout import specs
from textdiffusion.nn.transformer import TransformerConfig, build_denoiser


@pytest.mark.parametrize('time', ['none', 'additive', 'adaln'])
@pytest.mark.parametrize('scan', ['scan', 'unroll'])
def test_every_parameter_has_a_rule(time, scan):
  for mlp, bias, tied, norm in itertools.product(
    ('gelu', 'swiglu', 'glu'), *[(False, True)] * 3
  ):
    config = TransformerConfig(
      num_layers=2,
      d_model=16,
      num_heads=2,
      mlp=mlp,
      use_bias=bias,
      tied=tied,
      qk_norm=norm,
      time=time,
      scan=scan,
    )
    shapes = jax.eval_shape(build_denoiser(config, 9).init, jax.random.key(0))
    for leaf, spec in zip(
      jax.tree.leaves(shapes),
      jax.tree.leaves(
        specs(shapes), is_leaf=lambda x: isinstance(x, PartitionSpec)
      ),
    ):
      assert len(spec) == len(leaf.shape)


@pytest.mark.parametrize('scan, ahead', [('scan', (None,)), ('unroll', ())])
def test_products_are_split_as_megatron_does(scan, ahead):
  config = TransformerConfig(num_layers=1, d_model=16, num_heads=2, scan=scan)
  shapes = jax.eval_shape(build_denoiser(config, 9).init, jax.random.key(0))
  layer = specs(shapes)['layers' if scan == 'scan' else 'layers_0']
  first = PartitionSpec(*ahead, 'fsdp', 'tensor')
  second = PartitionSpec(*ahead, 'tensor', 'fsdp')
  assert layer['attention']['q']['kernel'] == first
  assert layer['attention']['out']['kernel'] == second
  assert layer['mlp']['up']['kernel'] == first
  assert layer['mlp']['down']['kernel'] == second


def test_a_parameter_without_a_rule_is_an_error():
  shape = jax.ShapeDtypeStruct((3, 4), float)
  with pytest.raises(ValueError, match='no layout rule names.*novel'):
    specs({'novel': {'kernel': shape}})


def test_parameters_of_a_method_stand_beside_the_network():
  config = TransformerConfig(num_layers=1, d_model=16, num_heads=2)
  shapes = jax.eval_shape(build_denoiser(config, 9).init, jax.random.key(0))
  own = {'power': jax.ShapeDtypeStruct((9,), float)}
  both = specs({'network': shapes, 'method': own})
  assert both['network'] == specs(shapes)
  assert both['method']['power'] == PartitionSpec(None)
