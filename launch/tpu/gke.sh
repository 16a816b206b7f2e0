#!/usr/bin/env bash
# Submits one command to TPU slices of a GKE cluster, through xpk. See README.md
# beside it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
source "$here/../common.sh"

name='' cluster='' type='' zone='' project='' slices=1 image=python:3.12 grace=120
flags name cluster type zone project slices image grace -- "$@"
needed name cluster type zone project
# xpk puts the checkout on top of the image and works in it. It signals the
# process it started, hence exec; and it restarts what a signal killed or what
# exits with 75: a run that lost a host, hung, or was preempted and saved its
# state, which must not look like a finished one. Five starts from one checkpoint
# are refused, and end it.
run xpk workload create \
  --workload="$name" --cluster="$cluster" --tpu-type="$type" \
  --num-slices="$slices" --zone="$zone" --project="$project" \
  --base-docker-image="$image" --script-dir="$(cd "$here/../.." && pwd)" \
  --max-restarts=100 --restart-on-exit-codes=75 --termination-grace-period-seconds="$grace" \
  --command="export TEXTDIFFUSION_STOPPED_CODE=75 TEXTDIFFUSION_TRIES=5; pip install --quiet -e '.[tpu]' && exec $(printf '%q ' "${command[@]}")"
