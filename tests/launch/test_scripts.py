"""The scripts for clusters: sound shell, and what --dry-run prints."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / 'launch').glob('*/*.sh'))
TRAIN = ['--', 'python', '-m', 'launch.train', '--set=a=b c']


def run(script, *flags):
  return subprocess.run(
    [ROOT / 'launch' / script, *flags], capture_output=True, text=True
  )


def test_they_are_sound():
  found = shutil.which('shellcheck', path=Path(sys.executable).parent)
  found = found or shutil.which('shellcheck')
  if found is None:
    pytest.skip('shellcheck is not installed')
  files = [ROOT / 'launch' / 'common.sh', *SCRIPTS]
  out = subprocess.run(
    [found, '-x', *files], cwd=ROOT, capture_output=True, text=True
  )
  assert out.returncode == 0, out.stdout
  assert len(files) == 4


@pytest.mark.parametrize(
  ('script', 'flags', 'said'),
  [
    (
      'tpu/queued.sh',
      ['--name=a', '--type=v5p-8', '--zone=z', '--runtime=r', '--spot=true'],
      [
        'queued-resources create a --zone=z --node-id=a '
        '--accelerator-type=v5p-8 --runtime-version=r --spot',
        'archive --prefix=textdiffusion/',
        'textdiffusion.tar.gz a: --zone=z --worker=all',
        'pip\\ install',
        'launch.train\\ --set=a=b\\\\\\ c',
      ],
    ),
    (
      'tpu/gke.sh',
      ['--name=a', '--cluster=c', '--type=v5p-8', '--zone=z', '--project=p'],
      ['xpk workload create --workload=a --cluster=c', '--num-slices=1'],
    ),
    (
      'gpu/slurm.sh',
      ['--name=a', '--nodes=4', '--partition=big'],
      [
        'sbatch --job-name=a --nodes=4 --ntasks-per-node=8',
        '--partition=big --requeue --signal=TERM@120',
        'srun\\ --kill-on-bad-exit=1\\ python',
      ],
    ),
  ],
)
def test_a_dry_run_tells_and_does_nothing(script, flags, said):
  out = run(script, '--dry-run', *flags, *TRAIN)
  assert out.returncode == 0, out.stderr
  for part in said:
    assert part in out.stdout, out.stdout


@pytest.mark.parametrize(
  'script', [str(p.relative_to(p.parents[1])) for p in SCRIPTS]
)
def test_mistakes_are_told(script):
  for flags, said in (
    (['--dry-run', *TRAIN], 'error: --name=... is missing'),
    (['--dry-run', '--nam=a', *TRAIN], 'error: --nam is not one of: name'),
    (['--dry-run', '--name=a'], 'error: no command'),
    (['--dry-run', 'name=a', *TRAIN], 'error: unexpected name=a'),
  ):
    out = run(script, *flags)
    assert out.returncode == 2 and said in out.stderr, out.stderr
