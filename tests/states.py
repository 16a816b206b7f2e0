"""Training states for tests, of which next to nothing is compiled."""

import jax
import numpy as np

from textdiffusion.training.state import init_method_state, init_state

KEY = jax.random.key(0)


def random_params(init, seed=0):
  """Parameters away from their start, where gates and heads are zero and much
  of a gradient vanishes.

  Args:
    init: key -> parameters, of which shapes and dtypes alone are used.
    seed: of the draws.

  Returns:
    Arrays of NumPy: N(0, 0.3^2), and that around 1 for scales of norms.
  """
  draw = np.random.default_rng(seed)
  shapes = jax.eval_shape(init, KEY)
  leaves, tree = jax.tree_util.tree_flatten_with_path(shapes)
  values = [
    ("'scale'" in str(path)) + 0.3 * draw.standard_normal(leaf.shape)
    for path, leaf in leaves
  ]
  return tree.unflatten(
    np.asarray(x, leaf.dtype) for x, (_, leaf) in zip(values, leaves)
  )


def random_state(method, network, optimizer, seed=0):
  """A training state at step 0 with `random_params`, on the host. The state of
  an optimiser must start at zeros."""
  init = lambda key: init_state(method, network, optimizer, key)
  shapes = jax.eval_shape(init, KEY)
  state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  params = random_params(network.init, seed)
  method_state = ()
  if method.state is not None:
    begin = lambda params: init_method_state(method, network, params)
    method_state = jax.device_get(jax.jit(begin)(params))
  return state._replace(
    params=params,
    ema=jax.tree.map(np.copy, params),
    method_state=method_state,
  )
