#!/usr/bin/env bash
# Submits one command to a SLURM cluster of GPUs, a process for each GPU. See
# README.md beside it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
source "$here/../common.sh"

name='' nodes=1 gpus=8 hours=24 partition='' account='' warn=120
flags name nodes gpus hours partition account warn -- "$@"
needed name
where=()
if [ -n "$partition" ]; then where+=(--partition="$partition"); fi
if [ -n "$account" ]; then where+=(--account="$account"); fi
# The job is warned `warn` seconds before its end, in time for a checkpoint.
run sbatch --job-name="$name" --nodes="$nodes" --ntasks-per-node="$gpus" \
  --gpus-per-node="$gpus" --time="$hours:00:00" --exclusive "${where[@]}" \
  --requeue --signal="B:USR1@$warn" --open-mode=append \
  --output="$name.%j.log" --chdir="$(cd "$here/../.." && pwd)" \
  "$here/job.sh" "$warn" "${command[@]}"
