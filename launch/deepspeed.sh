#!/usr/bin/env bash
# Train on the nodes of a hostfile with DeepSpeed's launcher: one command on one node, which starts the others by ssh.
#
#   launch/deepspeed.sh [OPTION ...] [--] [KEY=VALUE ...]
#
#   --hostfile FILE   nodes and their ranks, as in launch/hostfile.example; without it: this machine only
#   --ranks N         without a hostfile: number of processes (RANKS_PER_NODE of cluster.env)
#   --dry-run         print the command
#
# Needs pdsh, ssh without a password, and on every node this checkout and the current folder at the same path.
# To save and stop, send SIGUSR1 to any one rank, on its node. Ctrl-C kills ALL runs of this interpreter there.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

hostfile='' dry_run='' arguments=()
while (($#)); do
  case $1 in
    --hostfile) value "$@"; hostfile=$2; shift ;;
    --ranks) count "$@"; RANKS_PER_NODE=$2; shift ;;
    --dry-run) dry_run=yes ;;
    --) shift; arguments+=("$@"); break ;;
    -*) die "$1: unknown option; --help lists them" ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

command=("${ropewalk[@]}" deepspeed --master_port="$MASTER_PORT")
if [[ -z $hostfile ]]; then
  checked "$RANKS_PER_NODE" "${arguments[@]}" >/dev/null
  command+=(--hostfile=/dev/null --num_gpus="$RANKS_PER_NODE" -- "${arguments[@]}")
else
  hostfile=$(realpath -m -- "$hostfile")
  [[ -f $hostfile ]] || die "--hostfile $hostfile: there is no such file; launch/hostfile.example shows one"
  read -r head ranks < <(awk '!/^[ \t]*(#|$)/ { sub("slots=", ""); if (!n) head = $1; n += $2 } END { print head, n }' "$hostfile")
  folder=$(checked "$ranks" "${arguments[@]}")
  DS_ENV_FILE=$(realpath -m -- "$folder/deepspeed.env") # the variables that remote shells export
  command+=(--hostfile="$hostfile" --force_multi --master_addr="$head" -- "${arguments[@]}")
  command=(env DS_ENV_FILE="$DS_ENV_FILE" "${command[@]}")
fi
if [[ -n $dry_run ]]; then
  show "${command[@]}"
  exit
fi
if [[ -n $hostfile ]]; then
  mkdir -p "$folder"
  env | grep -E "^($REMOTE_VARIABLES)=" >"$DS_ENV_FILE"
fi
exec "${command[@]}"
