#!/usr/bin/env bash
# The job that slurm.sh submits: one command, a process for each GPU. Warned
# (SIGUSR1) that its time is nearly up, it has the command save its state and
# end, and goes back into the queue.
set -euo pipefail

is_warned=0 step=''
# srun passes SIGTERM on to every process. Without a step yet, below does it.
trap 'is_warned=1; if [ -n "$step" ]; then kill -TERM "$step" || true; fi' USR1

srun --kill-on-bad-exit=1 "$@" &
step=$!
if [ "$is_warned" = 1 ]; then kill -TERM "$step" || true; fi
code=0
wait "$step" || code=$?
# A signal ends the waiting, not the step.
while kill -0 "$step" 2>/dev/null; do
  code=0
  wait "$step" || code=$?
done
if [ "$is_warned" = 1 ] && [ "$code" = 0 ]; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
