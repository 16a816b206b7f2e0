"""The TPU kernel, interpreted, in shards over each kind of mesh."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json

import jax
import jax.numpy as jnp

from textdiffusion.nn.attention import attend, resolve, splash
from textdiffusion.nn.network import Causal, Full
from textdiffusion.training.mesh import MeshConfig, make_mesh

B, L, H, D = 4, 512, 4, 128
q, k, v = (
  jax.random.normal(jax.random.key(i), (B, L, h, D))
  for i, h in enumerate((H, 2, 2))
)
segments = jnp.tile(jnp.repeat(jnp.array([[1, 2]]), L // 2, axis=1), (B, 1))
results = {}


# (Output, gradients of the sum of its squares), compiled as one.
def with_slopes(attention):
  def call(q, k, v):
    out, pull_back = jax.vjp(attention, q, k, v)
    return out, pull_back(2 * out)

  return jax.jit(call)


for kind, seen in (('bidirectional', Full()), ('causal', Causal())):
  same = (segments[:, :, None] == segments[:, None])[:, None]
  mask = same & seen.dense(L)[None]
  plain, slope = with_slopes(lambda *x: attend(*x, mask))(q, k, v)
  for name, config in (
    ('fsdp', MeshConfig(1, 4)),
    ('tensor', MeshConfig(1, 2, 2)),
    ('sequence', MeshConfig(2, 1, 1, 2)),
  ):
    with jax.set_mesh(make_mesh(config, jax.devices()[:4])):
      sharded = with_slopes(lambda *x: splash(*x, segments, seen, True))
      out, grad = sharded(q, k, v)
    results[f'{kind} {name}'] = [
      float(abs(out - plain).max()),
      max(float(abs(a - b).max()) for a, b in zip(grad, slope)),
    ]
with jax.set_mesh(make_mesh(MeshConfig(2, 1, 1, 2), jax.devices()[:4])):
  results['chosen'] = [
    resolve('splash', q.dtype, shape)
    for shape in ((4, 512, 4, 64), (3, 512, 4, 64), (4, 128, 4, 64))
  ]
print('RESULT', json.dumps(results))
"""


@pytest.fixture(scope='module')
def results():
  flags = '--xla_force_host_platform_device_count=4'
  out = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    cwd=ROOT,
    env={
      **os.environ,
      'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} {flags}',
      'JAX_PLATFORMS': 'cpu',
    },
    capture_output=True,
    text=True,
  )
  assert out.returncode == 0, out.stderr[-3000:]
  return json.loads(re.search('RESULT (.*)', out.stdout)[1])


@pytest.mark.parametrize('mesh', ['fsdp', 'tensor', 'sequence'])
@pytest.mark.parametrize('kind', ['bidirectional', 'causal'])
def test_shards_are_plain_attention(results, kind, mesh):
  value, slope = results[f'{kind} {mesh}']
  assert value < 2e-3 and slope < 2e-2


def test_what_does_not_divide_takes_another(results):
  assert results['chosen'] == ['splash', 'xla', 'xla']
