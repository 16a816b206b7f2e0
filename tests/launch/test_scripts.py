"""The scripts for clusters: sound shell, and what --dry-run prints."""

import os
import shutil
import signal
import subprocess
import sys
import time
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
        '--restart-on-exit-codes=75',
        'TEXTDIFFUSION_STOPPED_CODE=75',
        'exec\\ python\\ -m\\ launch.train',
      ],
    ),
    (
      'gpu/slurm.sh',
      ['--name=a', '--nodes=4', '--partition=big'],
      [
        'sbatch --job-name=a --nodes=4 --ntasks-per-node=8',
        '--partition=big --requeue --signal=B:USR1@120',
        'gpu/job.sh 120 python -m launch.train --set=a=b\\ c',
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


# As SLURM's: a SIGTERM to itself kills what it started; scancel reaches that.
SRUN = """
trap 'kill -9 $!; exit 137' TERM
( trap 'sleep 0.5; echo "$2 $3" > saved; exit {code}' TERM
  echo $BASHPID > task; echo started
  for i in {{1..{turns}}}; do sleep 0.1; done; exit {code} ) &
wait $!"""
SCANCEL = '[ "$*" = "--signal=TERM 7" ] && kill -TERM "$(cat task)"'


def a_job(folder, code, is_warned, state='RUNNING', turns=None, warn=40):
  turns = turns or (100 if is_warned else 2)
  environment = programs(
    folder,
    srun=SRUN.format(code=code, turns=turns),
    scancel=SCANCEL,
    squeue=f'echo {state}',
    scontrol='echo "$@" >> queued',
  )
  job = subprocess.Popen(
    [JOB, str(warn), 'train', 'a b'],
    cwd=folder,
    env={**environment, 'SLURM_JOB_ID': '7'},
    stdout=subprocess.PIPE,
    text=True,
  )
  assert job.stdout is not None
  assert job.stdout.readline() == 'started\n'
  if is_warned:
    job.send_signal(signal.SIGUSR1)
  return job


@pytest.mark.parametrize(
  ('code', 'is_warned', 'is_queued'),
  [
    (0, False, False),  # done
    (0, True, True),  # saved in time
    (2, True, False),  # a mistake
    (1, False, False),  # a defect
    (137, False, True),  # killed, or a host was lost
    (75, False, True),  # it hung
  ],
)
def test_a_job_is_queued_again_where_it_may_go_on(
  tmp_path, code, is_warned, is_queued
):
  saved, queued = tmp_path / 'saved', tmp_path / 'queued'
  job = a_job(tmp_path, code, is_warned)
  assert job.wait(30) == (0 if is_queued else code)  # that of scontrol
  assert saved.exists() == is_warned, 'the processes are told, and end first'
  assert not is_warned or saved.read_text() == 'train a b\n'
  assert queued.exists() == is_queued
  assert not is_queued or queued.read_text() == 'requeue 7\n'


def test_a_cancelled_job_is_not_queued_again(tmp_path):
  job = a_job(tmp_path, 137, False, state='COMPLETING')
  assert job.wait(30) == 137 and not (tmp_path / 'queued').exists()


def test_a_job_that_does_not_end_in_time_is_queued_before_it_is_over(tmp_path):
  queued = tmp_path / 'queued'
  job = a_job(tmp_path, 0, True, turns=300, warn=1)
  (tmp_path / 'task').write_text('')
  began = time.monotonic()
  while not queued.exists() and time.monotonic() - began < 20:
    time.sleep(0.1)
  assert queued.exists()
  job.kill()


# Of a slice of one host, which is this machine; of its runs `codes` tells how
# they end, and what becomes of the slice. At first nobody answers.
GCLOUD = """
echo "$*" >> calls
case "$*" in
  *describe*)
    if [ ! -e tried ]; then touch tried; echo UNAVAILABLE >&2; exit 1; fi
    if [ -e state ]; then cat state; else echo NOT_FOUND >&2; exit 1; fi ;;
  *create*) echo ACTIVE > state ;;
  *delete*) rm state ;;
  *launch.train*) for last; do :; done; bash -c "${last#--command=}" ;;
esac"""
PYTHON = r"""
echo "$TEXTDIFFUSION_COORDINATOR $*" >> ../runs
code=$(sed -n "$(wc -l < ../runs)p" ../codes)
case $code in
  taken) printf 'SUSPENDED\tSERVICE\n' > ../state; rm ../tried ;;
  deleted) printf 'SUSPENDED\tUSER\n' > ../state ;;
  gone) rm ../state ;;
  *) exit "$code" ;;
esac
kill -9 $PPID"""


@pytest.mark.parametrize(
  ('codes', 'asked', 'code'),
  [
    ([0], 1, 0),
    ([4], 1, 4),  # the run's own failure
    (['taken', 0], 2, 0),
    (['deleted'], 1, 137),
    (['gone'], 1, 137),
    ([75, 134, 3], 1, 3),  # a run that goes on twice, and then fails
  ],
)
def test_a_slice_is_asked_for_again_and_a_run_goes_on(
  tmp_path, codes, asked, code
):
  environment = programs(tmp_path, gcloud=GCLOUD, python=PYTHON)
  activate = tmp_path / 'textdiffusion' / '.venv' / 'bin' / 'activate'
  activate.parent.mkdir(parents=True)
  activate.write_text('')
  (tmp_path / 'codes').write_text('\n'.join(map(str, codes)))
  flags = ['--name=a', '--type=v5p-8', '--zone=z', '--runtime=r', '--wait=0']
  out = subprocess.run(
    [ROOT / 'launch' / 'tpu' / 'queued.sh', *flags, *TRAIN],
    cwd=tmp_path,
    env=environment,
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert out.returncode == code, out.stderr
  runs = (tmp_path / 'runs').read_text().splitlines()
  assert runs == ['auto -m launch.train --set=a=b c'] * len(codes)
  calls = (tmp_path / 'calls').read_text()
  assert calls.count('create a') == calls.count('uv venv') == asked
  assert calls.count('delete a') == asked - 1


def test_a_slice_that_cannot_be_had_is_told(tmp_path):
  gcloud = 'case "$*" in *describe*) echo NOT_FOUND >&2;; esac; exit 1'
  flags = ['--name=a', '--type=v5p-8', '--zone=z', '--runtime=r', '--wait=0']
  out = subprocess.run(
    [ROOT / 'launch' / 'tpu' / 'queued.sh', *flags, *TRAIN],
    env=programs(tmp_path, gcloud=gcloud),
    capture_output=True,
    text=True,
    timeout=60,
  )
  assert out.returncode == 2
  assert 'error: the queued resource a was asked for 3 times' in out.stderr
