"""The scripts for clusters: sound shell, and what --dry-run prints."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / 'launch').glob('*/*.sh'))
JOB = ROOT / 'launch' / 'gpu' / 'job.sh'
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
  assert len(files) == 5


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
      [
        'xpk workload create --workload=a --cluster=c',
        '--num-slices=1',
        'exec\\ python\\ -m\\ launch.train',
      ],
    ),
    (
      'gpu/slurm.sh',
      ['--name=a', '--nodes=4', '--partition=big'],
      [
        'sbatch --job-name=a --nodes=4 --ntasks-per-node=8',
        '--partition=big --requeue --signal=B:USR1@120',
        'gpu/job.sh python -m launch.train --set=a=b\\ c',
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
  'script',
  [str(p.relative_to(p.parents[1])) for p in SCRIPTS if p != JOB],
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


def programs(folder, **texts):
  """Programs of these names, found before others."""
  for name, text in texts.items():
    path = folder / name
    path.write_text(f'#!/usr/bin/env bash\n{text}\n')
    path.chmod(0o755)
  return {**os.environ, 'PATH': f'{folder}:{os.environ["PATH"]}'}


@pytest.mark.parametrize('is_warned', [True, False])
@pytest.mark.parametrize('code', [0, 3])
def test_a_warned_job_saves_and_is_queued_again(tmp_path, is_warned, code):
  """What srun starts is told by SIGTERM, and all of it ends first."""
  saved, queued = tmp_path / 'saved', tmp_path / 'queued'
  environment = programs(
    tmp_path,
    srun=f"""
trap 'sleep 0.5; echo "$2 $3" > {saved}; exit {code}' TERM
echo started
for i in {{1..{100 if is_warned else 2}}}; do sleep 0.1; done
exit {code}""",
    scontrol=f'[ -e {saved} ] && echo "$@" > {queued}',
  )
  job = subprocess.Popen(
    [JOB, 'train', 'a b'],
    env={**environment, 'SLURM_JOB_ID': '7'},
    stdout=subprocess.PIPE,
    text=True,
  )
  assert job.stdout is not None
  assert job.stdout.readline() == 'started\n'
  if is_warned:
    job.send_signal(signal.SIGUSR1)
  assert job.wait(30) == code
  assert saved.exists() == is_warned
  assert not is_warned or saved.read_text() == 'train a b\n'
  assert queued.exists() == (is_warned and code == 0)
  assert not queued.exists() or queued.read_text() == 'requeue 7\n'


GCLOUD = """
echo "$*" >> calls
case "$*" in
  *describe*) if [ -e state ]; then cat state; else exit 1; fi ;;
  *create*) echo ACTIVE > state ;;
  *delete*) rm state ;;
  *launch.train*)
    n=$(grep -c launch.train calls)
    if [ "$n" = 1 ]; then echo SUSPENDED > state; exit 255; fi
    if [ "$ENDS" = 9 ]; then rm state; fi  # somebody deleted it
    exit "$ENDS" ;;
esac"""


@pytest.mark.parametrize('ends', [0, 4, 9])
def test_a_slice_that_was_taken_away_is_asked_for_again(tmp_path, ends):
  """The first run loses its slice, the second ends by itself."""
  environment = programs(tmp_path, gcloud=GCLOUD)
  flags = ['--name=a', '--type=v5p-8', '--zone=z', '--runtime=r', '--wait=0']
  out = subprocess.run(
    [ROOT / 'launch' / 'tpu' / 'queued.sh', *flags, *TRAIN],
    cwd=tmp_path,
    env={**environment, 'ENDS': str(ends)},
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert out.returncode == ends, out.stderr
  calls = (tmp_path / 'calls').read_text()
  counts = {
    name: calls.count(name)
    for name in ('create a', 'delete a', 'scp', 'uv venv', 'launch.train')
  }
  assert counts == {
    'create a': 2, 'delete a': 1, 'scp': 2, 'uv venv': 2, 'launch.train': 2
  }  # fmt: skip
  assert 'TEXTDIFFUSION_COORDINATOR=auto' in calls
