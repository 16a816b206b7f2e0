"""What a compiled program sends, against programs whose sendings are known."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from textdiffusion.aot.hlo import KINDS, collectives

ROOT = Path(__file__).parents[2]
# Of eight devices: each kind of collective, in a loop of five and outside.
PROGRAM = """
import json

import jax
import jax.numpy as jnp

from textdiffusion.aot.hlo import collectives

mesh = jax.make_mesh((8,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
gather = lambda x: jax.lax.all_gather(x, 'x', tiled=True)[:16]
scatter = lambda x: jax.lax.psum_scatter(x, 'x', tiled=True)
swap = lambda x: jax.lax.all_to_all(x, 'x', 0, 0, tiled=True)
turn = lambda x: jax.lax.ppermute(x, 'x', [(i, i ^ 1) for i in range(8)])


def body(x, _):
  x = gather(x * 1.5)
  x = jnp.sin(jax.lax.psum(x, 'x'))
  x = jnp.tile(jnp.cos(scatter(x)), (8, 1))
  return jnp.sin(turn(jnp.cos(swap(x)))), None


def run(x):
  x, _ = jax.lax.scan(body, x, length=5)
  return jax.lax.psum(x, 'x')


split = jax.shard_map(run, mesh=mesh, in_specs=jax.P('x'), out_specs=jax.P(),
                      check_vma=False)
text = jax.jit(split).lower(jnp.ones((128, 32))).compile().as_text()
print('RESULT', json.dumps([one._asdict() for one in collectives(text)]))
"""
SIZE = 16 * 32 * 4  # bytes that a device has


@pytest.fixture(scope='module')
def sent():
  flags = '--xla_force_host_platform_device_count=8'
  out = subprocess.run(
    [sys.executable, '-c', PROGRAM],
    cwd=ROOT,
    env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
    capture_output=True,
    text=True,
  )
  assert out.returncode == 0, out.stderr[-2000:]
  return json.loads(re.search('RESULT (.*)', out.stdout)[1])


@pytest.mark.parametrize(
  ('kind', 'size'),
  [
    ('all-gather', 7 * SIZE),
    ('all-reduce', 2 * SIZE * 7 / 8),
    ('reduce-scatter', SIZE * 7 / 8),
    ('all-to-all', SIZE * 7 / 8),
    ('collective-permute', SIZE),
  ],
)
def test_loops_count_as_often_as_they_run(sent, kind, size):
  inside = [one for one in sent if one['kind'] == kind and one['count'] == 5]
  assert len(inside) == 1 and kind in KINDS
  assert inside[0]['bytes'] == pytest.approx(5 * size)
  outside = [one for one in sent if one['kind'] == kind and one['count'] == 1]
  expected = [2 * SIZE * 7 / 8] if kind == 'all-reduce' else []
  assert [one['bytes'] for one in outside] == expected


# As the compiler of TPUs writes: groups by axes of a mesh, kernels over several
# lines, a gather in three fusions, sums beside the program.
TPU = """
%add (x: bf16[], y: bf16[]) -> bf16[] {
  ROOT %sum = bf16[] add(%x, %y)
}

%starts (p: bf16[64,4096]) -> bf16[4096,4096] {
  ROOT %g.1 = bf16[4096,4096]{1,0} all-gather(%p), replica_groups=mesh['a'=64,'b'=2] {'a'}, dimensions={0}, metadata={op_name="gate"}
}

%async_collective_fusion.7 (p: bf16[64,4096]) -> bf16[4096,4096] {
  ROOT %g.2 = bf16[4096,4096]{1,0} all-gather(%p), replica_groups=mesh['a'=64,'b'=2] {'a'}, dimensions={0}
}

%sums (p: bf16[4096,4096]) -> bf16[64,4096] {
  ROOT %r = bf16[64,4096]{1,0} reduce-scatter(%p), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
}, execution_thread="sparsecore"

%body (p: (s32[], bf16[64,4096])) -> (s32[], bf16[64,4096]) {
  %kernel = bf16[8,8] custom-call(%q), backend_config={"a":
}}, metadata={op_name="splash"}
  %async-collective-start = bf16[4096,4096] fusion(%k), kind=kCustom, calls=%starts
  %fusion.7 = bf16[4096,4096] fusion(%k), kind=kCustom, calls=%async_collective_fusion.7
  %async-collective-done = bf16[4096,4096] fusion(%k), kind=kCustom, calls=%starts
  %s = ((bf16[4096,4096]), bf16[64,4096]) call-start(%g), async_execution_thread="sparsecore", to_apply=%sums
}

%condition (p: (s32[], bf16[64,4096])) -> pred[] {
  %bound = s32[]{:T(128)} constant(32)
  ROOT %less = pred[] compare(%i, %bound), direction=LT
}

%left (p: f32[8]) -> f32[8] {
  ROOT %l = f32[8]{0} all-to-all(%p), replica_groups={{0,1}}, dimensions={0}
}

%right (p: f32[8]) -> f32[8] {
  ROOT %t = f32[8]{0} all-to-all(%p), replica_groups={{0,1}}, dimensions={0}
}

ENTRY %main (a: bf16[64,4096]) -> bf16[64,4096] {
  %either = f32[8] conditional(%i, %x, %x), branch_computations={%left, %right}
  %loop = (s32[], bf16[64,4096]) while(%t), condition=%condition, body=%body
  %swap = (f32[64,32]{1,0}, f32[64,32]{1,0}, u32[], u32[]) collective-permute-start(%a), source_target_pairs={{0,1},{1,0}}
}
"""  # noqa: E501


def test_the_dialect_of_tpus():
  found = {one.kind: one for one in collectives(TPU)}
  assert len(collectives(TPU)) == len(found) + 1 == 5  # one of each branch
  size = 4096 * 4096 * 2
  gather, scatter = found['all-gather'], found['reduce-scatter']
  assert (gather.count, gather.group, gather.where) == (32, 64, 'gate')
  assert gather.bytes == 32 * size * 63 / 64
  assert (scatter.count, scatter.group) == (32, 4)
  assert scatter.bytes == 32 * 64 * 4096 * 2 * 3
  assert found['collective-permute'].bytes == 64 * 32 * 4


# Shards that rotate around a product, as the compiler of TPUs writes it: an
# unsigned counter, here 0, 2, 4, 6, in the third place of what the loop holds.
ROTATES = """
%turns (p: (bf16[8,4], bf16[8,4], u32[])) -> (bf16[8,4], bf16[8,4], u32[]) {
  %two = u32[]{:T(128)} constant(2)
  %at = u32[]{:T(128)} get-tuple-element(%p), index=2
  %sent = (bf16[8,4]{1,0}, bf16[8,4]{1,0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,0}}
  %next = u32[]{:T(128)} add(%at, %two), metadata={op_name="a"}
  ROOT %all = (bf16[8,4]{1,0}, /*index=1*/bf16[8,4]{1,0}, u32[]) tuple(%x, %y, %next)
}

%tests (p: (bf16[8,4], bf16[8,4], u32[])) -> pred[] {
  %bound = u32[]{:T(128)} constant(8)
  %now = u32[]{:T(128)} get-tuple-element(%p), index=2
  ROOT %less = pred[] compare(%now, %bound), direction=LT
}

ENTRY %main (a: bf16[8,4]) -> bf16[8,4] {
  %loop = (bf16[8,4], bf16[8,4], u32[]) while(%t), condition=%tests, body=%turns
}
"""  # noqa: E501


@pytest.mark.parametrize(('step', 'count'), [(2, 4), (1, 8), (3, 3)])
def test_a_loop_that_does_several_turns_at_a_time(step, count):
  (one,) = collectives(ROTATES.replace('constant(2)', f'constant({step})'))
  assert (one.count, one.bytes) == (count, count * 8 * 4 * 2)
