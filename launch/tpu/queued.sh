#!/usr/bin/env bash
# Waits for a slice of Cloud TPU, installs this checkout on all of its hosts, and
# runs one command on each of them. See README.md beside it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/common.sh
source "$here/../common.sh"

name='' type='' zone='' runtime='' spot='' project='' wait=30
flags name type zone runtime spot project wait -- "$@"
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

# Waits for the slice: one that is there is used again, one that was taken away
# is asked for anew.
acquire() {
  local now=''
  if [ "$is_dry" = 0 ]; then now=$(state 2>/dev/null || true); fi
  case "$now" in
    FAILED | SUSPENDING | SUSPENDED)
      run gcloud compute tpus queued-resources delete "$name" "${place[@]}" \
        --force --quiet
      now='' ;;
  esac
  if [ -z "$now" ]; then
    run gcloud compute tpus queued-resources create "$name" "${place[@]}" \
      "${ask[@]}"
  fi
  if [ "$is_dry" = 1 ]; then return; fi
  until now=$(state) && [ "$now" = ACTIVE ]; do
    case "$now" in
      FAILED | SUSPENDED) fail "the queued resource $name is $now" ;;
    esac
    echo "$(date +%T) $name: $now"
    sleep "$wait"
  done
}

# The images' own Python may be older than what the program needs.
setup='tar -xzf textdiffusion.tar.gz && cd textdiffusion && python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --allow-existing --python 3.12 .venv && python3 -m uv pip install --quiet --python .venv/bin/python -e ".[tpu]"'
started="cd textdiffusion && source .venv/bin/activate && export TEXTDIFFUSION_COORDINATOR=auto TEXTDIFFUSION_STOPPED_CODE=75 && exec $(printf '%q ' "${command[@]}")"

if [ -n "$(git -C "$here/../.." status --porcelain)" ]; then
  echo 'warning: what is not committed here does not go to the slice' >&2
fi
packed=$(mktemp -d)/textdiffusion.tar.gz
run git -C "$here/../.." archive --prefix=textdiffusion/ -o "$packed" HEAD
while true; do
  acquire
  code=0
  run gcloud compute tpus tpu-vm scp "$packed" "$name:" "${place[@]}" \
    --worker=all &&
    run "${all[@]}" --command="$setup" &&
    run "${all[@]}" --command="$started" || code=$?
  if [ "$code" = 0 ]; then exit; fi
  # The command's own failure, or the slice was taken away?
  sleep "$wait"
  case "$(state || true)" in
    FAILED | SUSPENDING | SUSPENDED)
      echo "$(date +%T) $name was taken away; asking again" ;;
    *) exit "$code" ;;
  esac
done
