#!/usr/bin/env bash
# Submit a run to Slurm. The configuration is checked first; one with mistakes is not submitted.
#
#   launch/slurm.sh [OPTION ...] [--] [KEY=VALUE ...]
#
#   --nodes N      nodes of the job (NODES of cluster.env)
#   --chain N      N jobs, one after the other, each up to the time limit, instead of one that requeues itself
#   --dry-run      print the sbatch command
#
# The job, and each of its restarts, runs in the folder where this script is started: relative paths refer to it.
# Output of the jobs is appended to slurm.log in the run's folder. A second submission of a run waits for the first.
# launch/README.md describes what happens at the time limit, at preemption, when a node is lost and when a rank fails.
set -euo pipefail
source "$(dirname "$0")/settings.sh"

links='' dry_run='' arguments=()
while (($#)); do
  case $1 in
    --nodes) count "$@"; NODES=$2; shift ;;
    --chain) count "$@"; links=$2; shift ;;
    --dry-run) dry_run=yes ;;
    --) shift; arguments+=("$@"); break ;;
    -*) die "$1: unknown option; --help lists them" ;;
    *) arguments+=("$1") ;;
  esac
  shift
done

case ${CONTAINER:=} in
  '') ;;
  pyxis | enroot | apptainer) [[ -n ${CONTAINER_IMAGE-} ]] || die "CONTAINER=$CONTAINER: needs CONTAINER_IMAGE, the image to start" ;;
  *) die "CONTAINER=$CONTAINER: must be pyxis, enroot or apptainer" ;;
esac
# shellcheck source=launch/in_container.sh
source "$root/launch/in_container.sh"
folder=$(checked "$((NODES * RANKS_PER_NODE))" "${arguments[@]}")
if [[ -n $CONTAINER ]]; then
  [[ $root$PWD != *[[:space:],:]* ]] || die "$PWD: a container knows no folders with a space, comma or colon in the name"
  seen=''
  for pair in ${mounts//,/ }; do [[ $folder != "${pair#*:}"/* ]] || seen=yes; done
  [[ -n $seen ]] || die "$folder: is not seen inside the container, where ranks write; add it to CONTAINER_MOUNTS"
fi
command=(
  sbatch --parsable --export=ALL --chdir="$PWD" --job-name="${folder##*/}" --dependency=singleton
  --nodes="$NODES" --ntasks-per-node="$RANKS_PER_NODE" --cpus-per-task="$CPUS_PER_RANK"
  --time="$TIME_LIMIT" --signal="B:USR1@$STOP_SECONDS"
  --output="${folder//%/%%}/slurm.log" --open-mode=append
)
((GPUS_PER_NODE == 0)) || command+=(--gpus-per-node="$GPUS_PER_NODE")
[[ -z $ACCOUNT ]] || command+=(--account="$ACCOUNT")
[[ -z $PARTITION ]] || command+=(--partition="$PARTITION")
[[ -z $QOS ]] || command+=(--qos="$QOS")
if [[ -n $links ]]; then
  command+=(--no-requeue --array="1-$links%1") # at most one at a time
else
  command+=(--requeue)
fi
command+=("${SBATCH_EXTRA[@]}" "$root/launch/slurm.sbatch" "$root" "$CLUSTER" "$folder" "${arguments[@]}")

if [[ -n $dry_run ]]; then
  show "${command[@]}"
  [[ -z $CONTAINER ]] ||
    show srun "${container_options[@]}" "${container_command[@]}" "$PYTHON" "$root/launch/ropewalk.py" train "${arguments[@]}"
  exit
fi
mkdir -p "$folder"
job=$("${command[@]}")
echo "submitted job ${job%%;*}; what it says: $folder/slurm.log"
