"""A real size compiled for slices that are not there."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from textdiffusion.aot import sweep
from textdiffusion.config import load
from textdiffusion.core.types import UserError

ROOT = Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(
  importlib.util.find_spec('libtpu') is None,
  reason='libtpu, the compiler of TPUs, is not installed: pip install .[tpu]',
)


def run(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'launch.compile', *flags],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )


@needs_libtpu
def test_162m_on_four_chips():
  out = run(
    '--config=configs/llada.py:c4_162m',
    '--topology=v5e:2x2',
    '--mesh=fsdp=4',
    '--set=data.batch_size=32',
    '--json',
  )
  assert out.returncode == 0, out.stderr
  report = json.loads(out.stdout)
  assert report['fits'] and report['chips'] == 4 and not report['warnings']
  assert report['parameters'] == 162_220_800
  # Four numbers of four bytes a parameter, on four chips.
  state = 16 * report['parameters'] / 4
  assert state < report['bytes_by_kind']['arguments'] < 1.01 * state
  assert report['bytes_per_chip'] < report['chip_bytes'] == 16 * 2**30
  # 6 N D and attention.
  assert report['flops_per_chip'] == pytest.approx(
    3 * 284_884_992 * 32 * 1024 / 4
  )
  # Kernels gathered once or twice, their gradients scattered once.
  kernels = 2 * report['parameters'] * 3 / 4
  assert 1.9 * kernels < report['collective_bytes'] < 1.3 * 3 * kernels
  assert report['bound_by'] == 'compute' and 0.5 < report['predicted_mfu'] <= 1


@needs_libtpu
def test_what_does_not_fit_ends_with_3_and_why():
  out = run(
    '--config=configs/llada.py:c4_162m',
    '--topology=v5e:2x2',
    '--mesh=fsdp=4',
    '--set=data.batch_size=256',
  )
  assert out.returncode == 3 and 'does not fit' in out.stderr, out.stderr


@pytest.mark.parametrize(
  ('flags', 'reason'),
  [
    (['--config=configs/llada.py:c4_8b'], 'are both needed'),
    (['--topology=v5p:banana'], 'must be one of v4, v5e'),
    (['--topology=v9:2x2'], 'must be one of v4, v5e'),
    (['--topology=v5e:2x2', '--mesh=fsdp'], 'must be like data=2'),
  ],
)
def test_mistakes_end_in_one_line(flags, reason):
  if '--config=configs/llada.py:c4_8b' not in flags:
    flags = ['--config=configs/llada.py:c4_8b', *flags]
  out = run(*flags)
  if 'compiler of TPUs is not installed' in out.stderr:
    pytest.skip('libtpu is not installed, which is reported first')
  assert out.returncode == 2 and reason in out.stderr, out.stderr
  assert len(out.stderr.splitlines()) == 1


def test_a_sweep_tells_of_all_the_fastest_first(capsys):
  """Not more rows where fewer do not fit; a refused mesh is a line."""

  def tell(config):
    mesh, rows = dataclasses.asdict(config.mesh), config.data.batch_size
    if mesh['tensor'] == 2:
      raise UserError('no such heads')
    report = {'mesh': mesh, 'rows': rows, 'fits': rows < 32, 'chips': 8}
    rate = {'tokens_per_s_per_chip': rows + mesh['data']}
    return report | (rate if report['fits'] else {'reason': 'much too large'})

  config = load('configs/mdlm.py:toy_grammar', ['train.accumulate=2'])
  found = sweep.sweep(config, 8, tell)
  seen = [
    (one['mesh']['data'], one['mesh']['tensor'], one['rows']) for one in found
  ]
  # fsdp alone; 2 x tensor, refused at once; 2 and 4 x data; 4 x tensor.
  assert seen[0] == (4, 1, 16) and found[0]['fits']
  assert len(seen) == 1 + 2 * 4 and not found[-1]['fits']
  assert seen.count((1, 2, 16)) == 1 and (1, 1, 64) not in seen
  rates = [one['tokens_per_s_per_chip'] for one in found if one['fits']]
  assert rates == sorted(rates, reverse=True)
  printed = capsys.readouterr().err
  assert 'mesh 2 of 5, 16 rows: no such heads' in printed


def test_a_sweep_of_what_no_mesh_can_mend_is_a_mistake():
  def tell(config):
    raise UserError('--vocab_size is missing')

  config = load('configs/mdlm.py:toy_grammar', [])
  with pytest.raises(UserError, match='vocab_size is missing'):
    sweep.sweep(config, 8, tell)
