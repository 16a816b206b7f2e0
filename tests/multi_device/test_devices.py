"""One device equals eight; two processes save what one restores."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


def start(*args, devices=1, module='child'):
  flags = f'--xla_force_host_platform_device_count={devices}'
  flags = f'{os.environ["XLA_FLAGS"]} {flags}'
  return subprocess.Popen(
    [sys.executable, '-m', f'tests.multi_device.{module}', *map(str, args)],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def finish(process):
  out, error = process.communicate(timeout=300)
  assert process.returncode == 0, error[-3000:]
  return out


def one_and_eight(module):
  """(result, losses) on a mesh of one device and on one of eight."""
  out = finish(start('1x1x1', '2x2x2', devices=8, module=module))
  parts = re.findall(r'(.*?)^RESULT (.*?)$', out, re.DOTALL | re.MULTILINE)
  pairs = [
    (json.loads(result), [float(x) for x in re.findall(r'loss ([\d.]+)', text)])
    for text, result in parts
  ]
  (one, losses), (eight, losses_eight) = pairs
  assert (one['devices'], eight['devices']) == (1, 8)
  assert len(losses) == 5
  np.testing.assert_allclose(losses_eight, losses, rtol=1e-5, atol=1e-4)
  assert eight['ids'] == one['ids'], 'samples'
  return one, eight


def test_one_device_equals_eight():
  one, eight = one_and_eight('child')
  np.testing.assert_allclose(eight['params'], one['params'], rtol=1e-5)
  assert one['shard'] == 1 and eight['shard'] == 1 / 4, 'fsdp and tensor split'


def test_an_encoder_and_a_fitted_schedule_on_eight_devices():
  """Sums over the global batch, so that the same schedule is fitted."""
  one, eight = one_and_eight('source_child')
  for name in ('params', 'remembered'):
    np.testing.assert_allclose(eight[name], one[name], rtol=1e-4)
