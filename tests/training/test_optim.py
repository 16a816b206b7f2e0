"""AdamW by value: every setting enters as in the papers."""

import jax.numpy as jnp
import numpy as np
import pytest

from textdiffusion.training.optim import OptimizerConfig, build_optimizer

STEPS = 3
GRADS = np.array([0.3, -0.02, 0.5])
START = np.array([2.0, -1.0, 0.5])
SETTINGS = {'b1': 0.8, 'b2': 0.7, 'eps': 0.1, 'weight_decay': 0.25, 'clip': 0.0}


def directions(**settings):
  """Of a kernel and a bias with the same numbers and gradients; the parameters
  stay, the gradients of step i are GRADS times 1, -2, 3."""
  config = OptimizerConfig(**{**SETTINGS, **settings})
  transform = build_optimizer(config, STEPS).transform
  params = {'kernel': jnp.asarray(START), 'bias': jnp.asarray(START)}
  state, out = transform.init(params), []
  for i in range(STEPS):
    scale = (-1) ** i * (i + 1)
    grads = {name: jnp.asarray(GRADS * scale) for name in params}
    update, state = transform.update(grads, state, params)
    out.append(update)
  return {name: np.stack([update[name] for update in out]) for name in params}


def adam(b1, b2, eps, clip=0.0):
  """[steps, 3] by Kingma & Ba 2015, algorithm 1."""
  first, second, out = np.zeros(3), np.zeros(3), []
  for i in range(STEPS):
    grad = GRADS * (-1) ** i * (i + 1)
    # The norm is of both parameters, which have the same gradient.
    norm = np.sqrt(2 * np.square(grad).sum())
    if clip and norm > clip:
      grad = grad * clip / norm
    first = b1 * first + (1 - b1) * grad
    second = b2 * second + (1 - b2) * grad**2
    corrected = first / (1 - b1 ** (i + 1))
    root = np.sqrt(second / (1 - b2 ** (i + 1)))
    out.append(corrected / (root + eps))
  return np.stack(out)


@pytest.mark.parametrize(
  'settings',
  [
    {},
    {'b1': 0.3},
    {'b2': 0.999},
    {'eps': 1e-8},
    {'weight_decay': 0.0},
    {'clip': 0.7},
  ],
)
def test_directions_are_those_of_adamw(settings):
  """The decay of a kernel is added after the division by the second moment and
  is the same whatever the gradient was (Loshchilov & Hutter 2019)."""
  used = {**SETTINGS, **settings}
  decay = used.pop('weight_decay') * START
  want = adam(**used)
  have = directions(**settings)
  np.testing.assert_allclose(have['bias'], want, rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(have['kernel'], want + decay, rtol=2e-5, atol=1e-6)
