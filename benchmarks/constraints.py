"""Measures what constraints cost: a sampling call with and without them.

Both are timed in turn in one process, at two sizes of the vocabulary.
"""

import statistics
from typing import Any

import jax

from benchmarks import common
from textdiffusion.constraints.kinds import Exclude, Include, Length, Regex
from textdiffusion.data.tokenizers import SPECIALS, Words
from textdiffusion.guidance import Constrained
from textdiffusion.methods.mdlm import MDLM
from textdiffusion.methods.method import build_network
from textdiffusion.model import Trained, bind
from textdiffusion.samplers.ancestral import Ancestral
from textdiffusion.samplers.base import generate
from textdiffusion.samplers.constraining import acceptor
from textdiffusion.samplers.prompts import blank

SIZES, STEPS, ROUNDS, BATCH = (1024, 32_768), 8, 7, 8
CONSTRAINTS: dict[str, list[Any]] = {
  'include, exclude, length': [
    Include(('w1 w2', 'w3')),
    Exclude(('w4', 'w5 w6')),
    Length(words=100),
  ],
  'expression': [Regex('(w1|w2 w3)( w[0-9]+)* (w4( w5)?|w6)')],
}


def vocabulary(size: int) -> Words:
  """Returns a tokenizer of `size` ids, the words w1, w2, ..."""
  words = [f'w{i}' for i in range(1, size - len(SPECIALS))]
  return Words(' '.join(words).encode(), SPECIALS)


def ratios(size: int) -> dict[str, Any]:
  """Returns the seconds of a call, and the ratios under constraints."""
  tokenizer = vocabulary(size)
  method = MDLM().build(tokenizer.vocab)
  network = build_network(method, common.MODEL)
  params = network.init(jax.random.key(0))
  canvas = blank(BATCH, common.LENGTH)
  calls, states = {}, {}
  for name, constraints in {'none': [], **CONSTRAINTS}.items():
    accepts = acceptor(constraints, tokenizer, canvas) if constraints else None
    if accepts is not None:
      states[name] = accepts.table.shape[1:]

    @jax.jit
    def sample(params, key, accepts=accepts):
      model = bind(method, network, Trained(params))
      steered = model if accepts is None else Constrained(model, accepts)
      return generate(steered, canvas, key, Ancestral(STEPS)).ids

    calls[name] = sample
    jax.block_until_ready(sample(params, jax.random.key(1)))
  times: dict[str, list[float]] = {name: [] for name in calls}
  for _ in range(ROUNDS):
    for name, sample in calls.items():
      run = lambda sample=sample: sample(params, jax.random.key(1))
      times[name].append(common.seconds(run))
  paired = lambda name: [a / b for a, b in zip(times[name], times['none'])]
  return {
    'seconds_per_step': statistics.median(times['none']) / STEPS,
    **{
      name: {
        'ratio': statistics.median(paired(name)),
        'least': min(paired(name)),
        'most': max(paired(name)),
        'states_and_classes': states[name],
      }
      for name in CONSTRAINTS
    },
  }


def measure() -> dict[str, object]:
  return {
    'steps': STEPS,
    'batch': BATCH,
    'length': common.LENGTH,
    **{f'vocabulary {size}': ratios(size) for size in SIZES},
  }


if __name__ == '__main__':
  common.main('constraints', measure)
