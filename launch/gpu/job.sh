#!/usr/bin/env bash
# The job that slurm.sh submits: one command, a process for each GPU. Warned
# (SIGUSR1) that its time is nearly up, it has the command save its state and
# end, and goes back into the queue.
set -euo pipefail

is_warned=0
# To the processes themselves: srun would kill them for a SIGTERM of its own.
trap 'is_warned=1; scancel --signal=TERM "$SLURM_JOB_ID" || true' USR1

srun --kill-on-bad-exit=1 "$@" &
step=$!
while kill -0 "$step" 2>/dev/null; do
  wait "$step" || true  # which a signal to this script interrupts
done
code=0
wait "$step" || code=$?
# Ended as asked to, or by the signal before it listened.
if [ "$is_warned" = 1 ] && { [ "$code" = 0 ] || [ "$code" -gt 128 ]; }; then
  exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
