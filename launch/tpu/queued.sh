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

state() {  # and by whom it was suspended
  gcloud compute tpus queued-resources describe "$name" "${place[@]}" \
    --format='value(state.state,state.stateInitiator)' 2>/dev/null | tr '\t' ' '
}
all=(gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all)

# Waits for the slice: one that is there is used again, one that was taken away
# is asked for anew.
acquire() {
  local now='' asked=0 lost=0
  while true; do
    if [ "$is_dry" = 0 ]; then now=$(state || true); fi
    case "$now" in
      ACTIVE*) return ;;
      FAILED* | SUSPENDED*)
        if [ "$asked" = 1 ]; then fail "the queued resource $name is $now"; fi
        run gcloud compute tpus queued-resources delete "$name" \
          "${place[@]}" --force --quiet ;;
      '')
        if [ "$asked" = 0 ]; then
          run gcloud compute tpus queued-resources create "$name" \
            "${place[@]}" "${ask[@]}"
          asked=1
        elif [ $((lost += 1)) -gt 20 ]; then
          fail "the queued resource $name is not to be found"
        fi ;;
    esac
    if [ "$is_dry" = 1 ]; then return; fi
    echo "$(date +%T) $name: $now"
    sleep "$wait"
  done
}

# Whether the slice is being taken away, which is told some time after it is.
is_taken() {
  local look now
  for look in {1..10}; do
    now=$(state || true)
    case "$now" in
      SUSPEND*USER) return 1 ;;  # somebody has deleted it
      FAILED* | SUSPEND*) return 0 ;;
      ACTIVE*) echo "$(date +%T) $name: $now ($look of 10)" ;;
      *) return 1 ;;
    esac
    sleep "$wait"
  done
  return 1
}

# The images' own Python may be older than what the program needs.
setup='tar -xzf textdiffusion.tar.gz && cd textdiffusion && python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --allow-existing --python 3.12 .venv && python3 -m uv pip install --quiet --python .venv/bin/python -e ".[tpu]"'
# 75: a run that saved its state, or lost a host. On a slice that stays it goes on.
started="cd textdiffusion && source .venv/bin/activate && export TEXTDIFFUSION_COORDINATOR=auto TEXTDIFFUSION_STOPPED_CODE=75 && for try in 1 2 3 4 5; do $(printf '%q ' "${command[@]}"); code=\$?; [ \$code = 75 ] || break; done; exit \$code"

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
  if ! is_taken; then exit "$code"; fi
  echo "$(date +%T) $name was taken away; asking again"
done
