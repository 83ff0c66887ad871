# Sourced by torchrun.sh, deepspeed.sh and slurm.sh: shared functions, the repository's root, the cluster's settings.
# The scripts stay in the folder where they are started: relative paths in KEY=VALUE refer to it, on every rank.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# die LINE: report a mistake of the user and exit with status 2
die() {
  echo "${0##*/}: $1" >&2
  exit 2
}

# value OPTION [VALUE ...], count OPTION [VALUE ...]: require that a value, a positive integer follows
value() {
  [[ -n ${2-} ]] || die "$1: needs a value"
}
count() {
  [[ ${2-} =~ ^[1-9][0-9]*$ ]] || die "$1${2:+ $2}: needs a number from 1"
}

# show WORD ...: print a command line that can be copied
show() {
  local word line=''
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    line+="$word "
  done
  echo "${line% }"
}

# checked RANKS [KEY=VALUE ...]: print the run's folder if the configuration is valid for RANKS ranks
checked() {
  local ranks=$1
  shift
  WORLD_SIZE=$ranks "${ropewalk[@]}" train --folder "$@" | tail -n 1 || exit 2 # libraries may print lines before it
}

# The comment at the head of a script is its help.
for word; do
  case $word in
    -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$root/launch/${0##*/}"; exit ;;
    --) break ;;
  esac
done

CLUSTER=$(realpath -m -- "${CLUSTER:-$root/launch/cluster.env}")
[[ -f $CLUSTER ]] || die "CLUSTER=$CLUSTER: there is no such file; launch/cluster.env is the one to copy"
# shellcheck source=launch/cluster.env
source "$CLUSTER"
[[ $PYTHON != */* || $PYTHON == /* ]] || PYTHON=$root/$PYTHON
ropewalk=("$PYTHON" "$root/launch/ropewalk.py")
for name in GPUS_PER_NODE RANKS_PER_NODE CPUS_PER_RANK MAX_RESTARTS STOP_SECONDS MASTER_PORT NODES; do
  [[ ${!name} =~ ^(0|[1-9][0-9]*)$ ]] || die "$name=${!name}: must be a whole number"
done
((RANKS_PER_NODE > 0)) || die "RANKS_PER_NODE=$RANKS_PER_NODE: must be at least 1; set it where GPUS_PER_NODE is 0"
command -v "$PYTHON" >/dev/null || die "PYTHON=$PYTHON: there is no such program; run make setup, or name another"
