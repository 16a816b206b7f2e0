#!/usr/bin/env bash
# Waits for a slice of Cloud TPU, installs this checkout on all of its hosts, and
# runs one command on each of them. See README.md beside it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
source "$here/../common.sh"

name='' type='' zone='' runtime='' spot='' project=''
flags name type zone runtime spot project -- "$@"
needed name type zone runtime
place=(--zone="$zone")
if [ -n "$project" ]; then place+=(--project="$project"); fi
ask=(--node-id="$name" --accelerator-type="$type" --runtime-version="$runtime")
if [ "$spot" = true ]; then ask+=(--spot); fi

state() {
  gcloud compute tpus queued-resources describe "$name" "${place[@]}" \
    --format='value(state.state)'
}
all=(gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all)

# One that is there already is used again.
if [ "$is_dry" = 1 ] || [ -z "$(state 2>/dev/null)" ]; then
  run gcloud compute tpus queued-resources create "$name" "${place[@]}" \
    "${ask[@]}"
fi
if [ "$is_dry" = 0 ]; then
  until now=$(state) && [ "$now" = ACTIVE ]; do
    case "$now" in
      FAILED | SUSPENDED) fail "the queued resource $name is $now" ;;
    esac
    echo "$(date +%T) $name: $now"
    sleep 30
  done
fi
packed=$(mktemp -d)/textdiffusion.tar.gz
run git -C "$here/../.." archive --prefix=textdiffusion/ -o "$packed" HEAD
run gcloud compute tpus tpu-vm scp "$packed" "$name:" "${place[@]}" --worker=all
run "${all[@]}" --command='tar -xzf textdiffusion.tar.gz && cd textdiffusion && python3 -m venv .venv && .venv/bin/pip install --quiet -e ".[tpu]"'
run "${all[@]}" --command="cd textdiffusion && source .venv/bin/activate && $(printf '%q ' "${command[@]}")"
