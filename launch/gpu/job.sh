#!/usr/bin/env bash
# The job that slurm.sh submits: one command, a process for each GPU.
#   job.sh WARN COMMAND...
# Warned (SIGUSR1, WARN seconds before its time is up), it has the command save
# its state and end, and goes back into the queue; so it does where the command
# was killed, lost a host or hung. A mistake or a defect (1, 2) ends it.
set -euo pipefail
# A run that starts so often from one checkpoint is refused.
export TEXTDIFFUSION_TRIES="${TEXTDIFFUSION_TRIES:-5}"
late=$(($1 * 3 / 4))
shift

is_warned=0 timer=''
# To the processes themselves: srun would kill them for a SIGTERM of its own. A
# job that is still there when its time is up would not be queued again.
trap 'is_warned=1
  scancel --signal=TERM "$SLURM_JOB_ID" || true
  { sleep "$late"; exec scontrol requeue "$SLURM_JOB_ID"; } & timer=$!' USR1

# Looked for, and not waited for: a signal in bash's `wait` may hide the end.
file=$(mktemp)
{
  trap '' USR1
  code=0
  srun --kill-on-bad-exit=1 "$@" || code=$?
  echo "$code" >"$file"
} &
step=$!
while kill -0 "$step" 2>/dev/null; do sleep 0.5; done
code=$(cat "$file")
code=${code:-1}
if [ -n "$timer" ]; then kill "$timer" || true; fi
if [ "$is_warned$code" = 10 ] || [ "$code" = 75 ] || [ "$code" -ge 128 ]; then
  # Not if somebody has cancelled it.
  now=$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T || true)
  if [ "$now" = RUNNING ]; then exec scontrol requeue "$SLURM_JOB_ID"; fi
fi
exit "$code"
