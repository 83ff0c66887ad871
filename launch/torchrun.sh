#!/usr/bin/env bash
# Train on this machine, or on several machines with the same command on each.
#
#   launch/torchrun.sh [OPTION ...] [--] [KEY=VALUE ...]
#
#   --ranks N      processes on each node (RANKS_PER_NODE of cluster.env)
#   --nodes N      number of nodes (1)
#   --head HOST    with several nodes: the node of the rendezvous, by the name that `hostname` prints there
#   --restarts N   restarts of the ranks after a failure (MAX_RESTARTS)
#   --dry-run      print the command
#
# To save and stop, send SIGTERM, SIGINT or SIGUSR1 to this process, on every node.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

nodes=1 head='' dry_run='' arguments=()
while (($#)); do
  case $1 in
    --ranks) count "$@"; RANKS_PER_NODE=$2; shift ;;
    --nodes) count "$@"; nodes=$2; shift ;;
    --head) value "$@"; head=$2; shift ;;
    --restarts) [[ ${2-} =~ ^[0-9]+$ ]] || die "$1${2:+ $2}: needs a number from 0"; MAX_RESTARTS=$2; shift ;;
    --dry-run) dry_run=yes ;;
    --) shift; arguments+=("$@"); break ;;
    -*) die "$1: unknown option; --help lists them" ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

if ((nodes > 1)); then
  [[ -n $head ]] || die "--nodes $nodes: needs --head HOST, the node where they meet"
  meeting=(--nnodes="$nodes" --rdzv-backend=c10d --rdzv-id=train --rdzv-endpoint="$head:$MASTER_PORT")
else
  meeting=(--standalone)
fi
command=(
  "${ropewalk[@]}" torchrun "${meeting[@]}" --nproc-per-node="$RANKS_PER_NODE"
  --max-restarts="$MAX_RESTARTS" --shutdown-timeout="$STOP_SECONDS" -- "${arguments[@]}"
)
# Without this check a mistake in the configuration would be reported at every restart.
((MAX_RESTARTS == 0)) || checked "$((nodes * RANKS_PER_NODE))" "${arguments[@]}" >/dev/null
if [[ -n $dry_run ]]; then
  show "${command[@]}"
  exit
fi
exec "${command[@]}"
