# What the launch scripts share: flags, and commands that --dry-run only prints.
# shellcheck shell=bash

is_dry=0

# Prints a command as it would be typed, and runs it unless --dry-run was given.
run() {
  printf '%q ' "$@"
  echo
  if [ "$is_dry" = 0 ]; then "$@"; fi
}

fail() {
  echo "error: $*" >&2
  exit 2
}

# Reads --name=value flags into variables of these names, up to `--`; what
# follows is the command, in the array `command`.
#   flags NAME... -- "$@"
flags() {
  local known=()
  while [ "$1" != -- ]; do known+=("$1"); shift; done
  shift
  while [ $# -gt 0 ]; do
    case "$1" in
      --) shift; break ;;
      --dry-run) is_dry=1 ;;
      --*=*)
        local _flag=${1%%=*}  # no name that a script may have
        _flag=${_flag#--}
        case " ${known[*]} " in
          *" $_flag "*) printf -v "$_flag" '%s' "${1#*=}" ;;
          *) fail "--$_flag is not one of: ${known[*]}" ;;
        esac ;;
      *) fail "unexpected $1: flags are --name=value, the command follows --" ;;
    esac
    shift
  done
  # shellcheck disable=SC2034 # the scripts use it
  command=("$@")
  [ $# -gt 0 ] || fail 'no command: give it after --'
}

# Stops where one of these variables is empty.
needed() {
  local _flag
  for _flag in "$@"; do
    [ -n "${!_flag-}" ] || fail "--$_flag=... is missing"
  done
}
