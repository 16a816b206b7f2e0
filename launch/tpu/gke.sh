#!/usr/bin/env bash
# Submits one command to TPU slices of a GKE cluster, through xpk. See README.md
# beside it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
source "$here/../common.sh"

name='' cluster='' type='' zone='' project='' slices=1 image=python:3.12
flags name cluster type zone project slices image -- "$@"
needed name cluster type zone project
# xpk puts the checkout on top of the image and works in it.
run xpk workload create \
  --workload="$name" --cluster="$cluster" --tpu-type="$type" \
  --num-slices="$slices" --zone="$zone" --project="$project" \
  --base-docker-image="$image" --script-dir="$(cd "$here/../.." && pwd)" \
  --max-restarts=100 \
  --command="pip install --quiet -e '.[tpu]' && $(printf '%q ' "${command[@]}")"
