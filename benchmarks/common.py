"""What the benchmarks share: the model, the matrix peak, one line of JSON."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from textdiffusion.core.types import Vocab
from textdiffusion.nn.transformer import TransformerConfig

# The size that the figures in benchmarks/results are about; the MLP is that of
# the official implementations that they are compared with.
VOCAB = Vocab(256, mask_id=255, bos_id=0, eos_id=1)
LENGTH, BATCH = 128, 16
MODEL = TransformerConfig(num_layers=6, d_model=256, num_heads=8, mlp='gelu')


def matmul_peak(size: int = 2048) -> Callable[[], float]:
  """A call -> FLOP/s of one float32 product of size x size."""
  a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
  product = jax.jit(lambda a: a @ a)
  product(a).block_until_ready()
  return lambda: 2 * size**3 / seconds(lambda: product(a))


def seconds(run: Callable[[], Any]) -> float:
  """Wall time of one call, until its arrays are there."""
  began = time.perf_counter()
  jax.block_until_ready(run())
  return time.perf_counter() - began


def paired(run: Callable[[], Any], rounds: int) -> tuple[float, float]:
  """(median seconds of `run`, median of its time over that of a product).

  The machine's speed drifts, so that each call is set against a matrix product
  right before and right after it: the second figure is seconds times the
  FLOP/s of its own moment, that is FLOPs the peak would have done meanwhile.
  """
  peak = matmul_peak()
  jax.block_until_ready(run())
  times, work, before = [], [], peak()
  for _ in range(rounds):
    times.append(seconds(run))
    after = peak()
    work.append(times[-1] * (before + after) / 2)
    before = after
  return statistics.median(times), statistics.median(work)


def main(
  name: str,
  measure: Callable[..., dict[str, Any]],
  lists: Mapping[str, Iterable[str]] | None = None,
) -> None:
  """Runs a benchmark and prints its figures, with --json on one line.

  lists: flag -> what it may name, all by default; `measure` takes the chosen.
  """
  parser = argparse.ArgumentParser(prog=f'python -m benchmarks.{name}')
  parser.add_argument('--json', action='store_true', help='one line of JSON')
  known = {flag: list(items) for flag, items in (lists or {}).items()}
  for flag, items in known.items():
    parser.add_argument(f'--{flag}', default=','.join(items), help='a,b,c')
  options = parser.parse_args()
  chosen = {flag: getattr(options, flag).split(',') for flag in known}
  for flag, items in chosen.items():
    if unknown := set(items) - set(known[flag]):
      parser.error(f'--{flag}: no {sorted(unknown)}; there are {known[flag]}')
  result = {
    'benchmark': name,
    **measure(**chosen),
    'command': f'python -m benchmarks.{name} ' + ' '.join(sys.argv[1:]),
    **facts(),
  }
  print(json.dumps(result, indent=None if options.json else 2))


def facts() -> dict[str, Any]:
  """Where and with what a figure was made."""
  return {
    'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'cpu_cores': _cores(),
    'python': platform.python_version(),
    'jax': jax.__version__,
    'commit': _commit(),
  }


def _cores() -> int:
  return len(os.sched_getaffinity(0))


def _commit() -> str:
  """The commit, also of a copy without a repository, by the environment."""
  if given := os.environ.get('TEXTDIFFUSION_COMMIT'):
    return given
  done = subprocess.run(
    ['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True
  )
  return done.stdout.strip() or 'unknown'
