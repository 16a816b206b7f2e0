"""Compares compiled sampling of embedding diffusion with Python loops.

Samples 50 sequences of 64 tokens in 200 of 2,000 steps with the clamping trick,
as Diffusion-LM does on E2E. Both loops call the sampler's own step. One uses a
compiled network and runs the rest op by op, like the official code on a GPU.
The other runs the network op by op as well, like the official code on a CPU.
The three alternate, and the figures are medians of their ratios.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import common
from textdiffusion.core.keys import row_keys
from textdiffusion.methods.diffusion_lm import DiffusionLM
from textdiffusion.methods.method import build_network
from textdiffusion.model import Trained, bind
from textdiffusion.nn.network import View, Wrapper
from textdiffusion.samplers.base import generate
from textdiffusion.samplers.latent import Clamp, GaussianAncestral
from textdiffusion.samplers.prompts import blank

ROWS, LENGTH, STEPS, ROUNDS = 50, 64, 200, 3
VOCAB = common.VOCAB._replace(size=821)  # The words of E2E.
EAGER_STEPS = 20  # The slowest loop runs this many steps; all cost the same.
MODEL = dataclasses.replace(common.MODEL, time='adaln')


@dataclasses.dataclass(frozen=True)
class Compiled(Wrapper):
  """A network that is compiled even if its caller is not."""

  @functools.cached_property
  def _call(self) -> Callable[..., Any]:
    return jax.jit(self._outputs)

  def _outputs(self, params: Any, x: Any, t: Any) -> Any:
    hidden, _ = self.network.hidden(params, x, t, View())
    return self.network.read(params, hidden)

  def hidden(self, params, x, t, view, cache=None):
    return self._call(params, x, t), cache

  def read(self, params, hidden):
    return hidden


def measure() -> dict[str, Any]:
  method = DiffusionLM().build(VOCAB)
  network = build_network(method, MODEL)
  params = network.init(jax.random.key(0))
  sampler = GaussianAncestral(STEPS, 'uniform', clamp=Clamp())
  canvas, key = blank(ROWS, LENGTH), jax.random.key(1)

  @jax.jit
  def compiled(params):
    model = bind(method, network, Trained(params))
    return generate(model, canvas, key, sampler).ids

  jitted = Compiled(network)

  def looped(net: Any, steps: int) -> Any:
    """Runs the steps of the sampler in a Python loop."""
    model = bind(method, net, Trained(params))
    times = sampler.times(model, canvas)[:, None, None]
    times = jnp.broadcast_to(times, (len(times), ROWS, LENGTH))
    carry = sampler.init(row_keys(key, jnp.arange(ROWS)), model, canvas)
    for i in range(steps):
      keys = row_keys(jax.random.fold_in(key, i), jnp.arange(ROWS))
      carry = sampler.step(keys, model, carry, times[i + 1], times[i])
    return sampler.frame(model, carry).ids

  def eager() -> Any:
    with jax.disable_jit():
      return looped(network, EAGER_STEPS)

  runs: dict[str, Callable[[], Any]] = {
    'compiled': lambda: compiled(params),
    'loop_over_compiled_network': lambda: looped(jitted, STEPS),
    'loop_op_by_op': eager,
  }
  for run in runs.values():
    run()
  times = {name: [] for name in runs}
  for _ in range(ROUNDS):
    for name, run in runs.items():
      times[name].append(common.seconds(run))
  times['loop_op_by_op'] = [
    t * STEPS / EAGER_STEPS for t in times['loop_op_by_op']
  ]
  tokens = ROWS * LENGTH
  return {
    'rows': ROWS,
    'length': LENGTH,
    'steps': STEPS,
    'tokens_per_s': {
      name: tokens / statistics.median(each) for name, each in times.items()
    },
    'times_faster_than': dict(_ratios(times)),
  }


def _ratios(times: dict[str, list[float]]) -> Iterator[tuple[str, float]]:
  """Yields the median time of each variant relative to the compiled one."""
  base = np.asarray(times['compiled'])
  for name, each in times.items():
    if name != 'compiled':
      yield name, float(np.median(np.asarray(each) / base))


if __name__ == '__main__':
  common.main('continuous', measure)
