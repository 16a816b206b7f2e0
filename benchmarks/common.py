"""Common parts of the benchmarks: the model, the matrix peak, the output."""

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

from textdiffusion.core.memory import keep_freed_memory
from textdiffusion.core.types import Vocab
from textdiffusion.nn.transformer import TransformerConfig

# The size behind the figures in benchmarks/results. The MLP is that of the
# official implementations that they are compared with.
VOCAB = Vocab(256, mask_id=255, bos_id=0, eos_id=1)
LENGTH, BATCH = 128, 16
MODEL = TransformerConfig(num_layers=6, d_model=256, num_heads=8, mlp='gelu')


def matmul_peak(size: int = 2048) -> Callable[[], float]:
  """Returns a function that measures the FLOP/s of a float32 matrix product.

  Args:
    size: rows and columns of the matrices.
  """
  a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
  product = jax.jit(lambda a: a @ a)
  product(a).block_until_ready()
  return lambda: 2 * size**3 / seconds(lambda: product(a))


def seconds(run: Callable[[], Any]) -> float:
  """Returns the wall time of one call, until its arrays are computed."""
  began = time.perf_counter()
  jax.block_until_ready(run())
  return time.perf_counter() - began


def paired(run: Callable[[], Any], rounds: int) -> tuple[float, float]:
  """Measures a function next to matrix products.

  The speed of a machine drifts, so each call is compared with matrix products
  directly before and after it.

  Args:
    run: the function.
    rounds: number of calls.

  Returns:
    The median seconds of a call, and the median of its seconds times the FLOP/s
    measured around it: the FLOPs that matrix products would have done in the
    same time.
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
  """Runs a benchmark and prints its figures as JSON.

  Args:
    name: name of the module.
    measure: returns the figures; takes the chosen items of each flag.
    lists: the items that each flag may name; by default all are chosen.
  """
  keep_freed_memory()
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
  """Returns the device, the versions and the commit of a measurement."""
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
  """Returns the commit; TEXTDIFFUSION_COMMIT sets it outside a repository."""
  if given := os.environ.get('TEXTDIFFUSION_COMMIT'):
    return given
  done = subprocess.run(
    ['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True
  )
  return done.stdout.strip() or 'unknown'
