"""Measures samplers: seconds per network call and tokens per second."""

from typing import Any

import jax

from benchmarks import common
from textdiffusion.methods.autoregressive import Autoregressive
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import build_network
from textdiffusion.model import Trained, bind
from textdiffusion.nn.transformer import flops_per_token
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import generate
from textdiffusion.samplers.first_hitting import FirstHitting
from textdiffusion.samplers.prompts import blank

STEPS = 64
SAMPLERS = {
  'ancestral': Ancestral(STEPS),
  'skipping': Ancestral(STEPS, skip=True),
  'first_hitting': FirstHitting(),
  'autoregressive': None,  # Uses the sampler of the method.
}


def timed(name: Any, rounds: int) -> dict[str, float]:
  """Returns the figures of one sampler."""
  is_causal = name == 'autoregressive'
  method = (Autoregressive() if is_causal else MDLM()).build(common.VOCAB)
  network = build_network(method, common.MODEL)
  params = network.init(jax.random.key(0))
  sampler = SAMPLERS[name] or method.sampler
  canvas = blank(common.BATCH, common.LENGTH)

  @jax.jit
  def sample(params, key):
    bound = bind(method, network, Trained(params))
    samples = generate(bound, canvas, key, sampler)
    return samples.ids, samples.calls

  calls = int(sample(params, jax.random.key(1))[1])
  times, peak_flops = common.paired(
    lambda: sample(params, jax.random.key(1)), rounds
  )
  tokens = common.BATCH * common.LENGTH
  rows = common.BATCH * (1 if is_causal else common.LENGTH)
  flops = rows * flops_per_token(
    common.MODEL,
    method.needs.width,
    common.LENGTH,
    structure=method.structure,
  )
  return {
    'network_calls': calls,
    'seconds_per_call': times / calls,
    'tokens_per_s': tokens / times,
    'fraction_of_matmul_peak': calls * flops / peak_flops,
  }


def measure() -> dict[str, object]:
  return {
    'steps': STEPS,
    'batch': common.BATCH,
    'length': common.LENGTH,
    **{name: timed(name, rounds=3) for name in SAMPLERS},
  }


if __name__ == '__main__':
  common.main('sample', measure)
