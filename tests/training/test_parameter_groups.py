"""Learning rates and weight decay by the path of a parameter; the linear
schedule. Everything by value, from updates of Adam's first step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.config import from_json, to_json
from textdiffusion.core.types import UserError
from textdiffusion.training.optim import (
  OptimizerConfig,
  ParameterGroup,
  build_optimizer,
)

PARAMS = {
  'embedding': jnp.full((2, 2), 2.0),
  'layers': {
    'up': {'kernel': jnp.full((2, 2), 3.0), 'bias': jnp.full(2, 4.0)},
    'norm': {'scale': jnp.full(2, 5.0)},
  },
  'method': {'noise': jnp.full(2, 6.0)},
}


def directions(**settings):
  """{path: direction} of the first step. With gradients of 1 and eps near 0
  Adam's own part is 1, so what is more is weight decay."""
  config = OptimizerConfig(eps=1e-12, clip=0.0, **settings)
  transform = build_optimizer(config, 10).transform
  ones = jax.tree.map(jnp.ones_like, PARAMS)
  updates, _ = transform.update(ones, transform.init(PARAMS), PARAMS)
  return {
    '/'.join(part.key for part in path): float(leaf.ravel()[0])
    for path, leaf in jax.tree_util.tree_flatten_with_path(updates)[0]
  }


def test_kernels_alone_decay_unless_all_are_to():
  close = lambda found, want: np.testing.assert_allclose(found, want, rtol=1e-5)
  kernels = directions(weight_decay=0.1)
  close(kernels['layers/up/kernel'], 1 + 0.1 * 3)
  assert sum(value > 1.01 for value in kernels.values()) == 1
  everything = directions(weight_decay=0.1, decay_all=True)
  close(
    [everything[name] for name in sorted(everything)],
    [1.2, 1.5, 1.4, 1.3, 1.6],
  )


def test_groups_have_rates_and_decays_of_their_own():
  groups = (
    ParameterGroup('embedding', lr_ratio=7.0, weight_decay=0.5),
    ParameterGroup('layers/.*/kernel', lr_ratio=0.125, weight_decay=0.8),
    ParameterGroup('layers/.*', lr_ratio=3.0),
    ParameterGroup('method/.*', lr_ratio=0.0),
  )
  found = directions(weight_decay=0.1, groups=groups)
  want = {
    'embedding': 7 * (1 + 0.5 * 2),
    'layers/up/kernel': 0.125 * (1 + 0.8 * 3),
    'layers/up/bias': 3.0,
    'layers/norm/scale': 3.0,
    'method/noise': 0.0,
  }
  assert found == pytest.approx(want, rel=1e-5)


def test_a_group_keeps_the_decay_of_the_run():
  one = (ParameterGroup('layers/.*', lr_ratio=2.0),)
  found = directions(weight_decay=0.1, groups=one)
  assert found['layers/up/kernel'] == pytest.approx(2 * (1 + 0.1 * 3))
  assert found['layers/up/bias'] == pytest.approx(2.0)
  found = directions(weight_decay=0.1, decay_all=True, groups=one)
  assert found['layers/up/bias'] == pytest.approx(2 * (1 + 0.1 * 4))
  assert found['embedding'] == pytest.approx(1 + 0.1 * 2)


def test_paths_do_not_depend_on_what_a_method_learns():
  """Methods with parameters of their own keep the network's under `network`."""
  config = OptimizerConfig(
    weight_decay=0.0, clip=0.0, groups=(ParameterGroup('head/kernel', 2.0),)
  )
  transform = build_optimizer(config, 10).transform
  params = {'network': {'head': {'kernel': jnp.ones(2)}}, 'method': {}}
  found, _ = transform.update(params, transform.init(params), params)
  np.testing.assert_allclose(found['network']['head']['kernel'], 2, rtol=1e-5)


def test_the_linear_schedule_may_outlast_the_run():
  """Falls over decay_steps after the warm-up, by default to the run's end."""
  rate = lambda **kw: (
    build_optimizer(
      OptimizerConfig(
        peak_lr=1.0,
        warmup_steps=10,
        schedule='linear',
        final_lr_ratio=0.2,
        **kw,
      ),
      110,
    ).learning_rate
  )
  whole, longer = rate(), rate(decay_steps=1000)
  found = [whole(s) for s in (4, 10, 60, 110)]
  np.testing.assert_allclose(found, [0.5, 1.0, 0.6, 0.2], rtol=1e-5)
  np.testing.assert_allclose(longer(110), 1 - 0.8 * 0.1, rtol=1e-5)


def test_groups_survive_json():
  config = OptimizerConfig(groups=(ParameterGroup('head/.*', 0.5, 0.0),))
  assert from_json(to_json(config)) == config


@pytest.mark.parametrize(
  ('broken', 'message'),
  [
    (lambda: ParameterGroup('('), r"path='\(' is no regular expression"),
    (lambda: ParameterGroup('a', lr_ratio=-1.0), 'lr_ratio=-1.0'),
    (lambda: ParameterGroup('a', weight_decay=-1.0), 'weight_decay=-1.0'),
    (
      lambda: OptimizerConfig(weight_decay=0.0, decay_all=True),
      'nothing decays',
    ),
    (
      lambda: directions(groups=(ParameterGroup('heads/.*'),)),
      "'heads/.\\*' matches no parameter",
    ),
    (
      lambda: directions(
        groups=(ParameterGroup('.*'), ParameterGroup('embedding'))
      ),
      "'embedding' matches no parameter",
    ),
  ],
)
def test_mistakes_are_named(broken, message):
  with pytest.raises(UserError, match=message):
    broken()
