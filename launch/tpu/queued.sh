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

folder=$(mktemp -d)

# Of the slice, and by whom it was suspended; GONE, or UNKNOWN where gcloud fails.
state() {
  local told
  if told=$(gcloud compute tpus queued-resources describe "$name" \
    "${place[@]}" --format='value(state.state,state.stateInitiator)' \
    2>"$folder/errors"); then
    echo "${told//$'\t'/ }"
  elif grep -qi 'not.found' "$folder/errors"; then
    echo GONE
  else
    echo UNKNOWN
  fi
}
all=(gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" --worker=all)

# Waits for the slice: one that is there is used again, one that was taken away
# is asked for anew.
acquire() {
  local now=GONE asked=0
  while true; do
    if [ "$is_dry" = 0 ]; then now=$(state); fi
    case "$now" in
      ACTIVE*) return ;;
      FAILED* | SUSPENDED*)
        run gcloud compute tpus queued-resources delete "$name" \
          "${place[@]}" --force --quiet || true ;;
      GONE)
        if [ $((asked += 1)) -gt 3 ]; then
          fail "the queued resource $name was asked for 3 times, in vain"
        fi
        run gcloud compute tpus queued-resources create "$name" \
          "${place[@]}" "${ask[@]}" || true ;;
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
    now=$(state)
    case "$now" in
      SUSPEND*USER | GONE | DELETING*) return 1 ;;  # somebody deletes it
      FAILED* | SUSPEND*) return 0 ;;
    esac
    echo "$(date +%T) $name: $now ($look of 10)"
    sleep "$wait"
  done
  return 1
}

# The images' own Python may be older than what the program needs.
setup='tar -xzf textdiffusion.tar.gz && cd textdiffusion && python3 -m pip install --quiet --user uv && python3 -m uv venv --quiet --allow-existing --python 3.12 .venv && python3 -m uv pip install --quiet --python .venv/bin/python -e ".[tpu]"'
# One at a time, for gcloud starts it again where its connection breaks. What was
# killed, lost a host or saved its state (75) goes on, on a slice that stays; a
# run that starts five times from one checkpoint is refused.
started="exec 9>textdiffusion.lock && flock 9 && cd textdiffusion && source .venv/bin/activate && export TEXTDIFFUSION_COORDINATOR=auto TEXTDIFFUSION_STOPPED_CODE=75 TEXTDIFFUSION_TRIES=5 && for try in {1..20}; do $(printf '%q ' "${command[@]}"); code=\$?; [ \$code = 75 ] || [ \$code -ge 128 ] || break; done; exit \$code"

if [ -n "$(git -C "$here/../.." status --porcelain)" ]; then
  echo 'warning: what is not committed here does not go to the slice' >&2
fi
packed=$folder/textdiffusion.tar.gz
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
