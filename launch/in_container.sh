# Sourced by slurm.sh and slurm.sbatch after the settings: turns CONTAINER into options of srun and a command prefix.
#
#   srun "${container_options[@]}" "${container_command[@]}" PYTHON ...
#
# Requires: root. The checkout, the current folder and CONTAINER_MOUNTS are mounted under the same paths. Every program
# replaces itself by the next one or passes signals on, so signals of Slurm reach the ranks.
container_options=() container_command=()
mounts=$root:$root mounted=${CONTAINER_MOUNTS-}
[[ $PWD/ == "$root"/* ]] || mounts+=,$PWD:$PWD
for folder in ${mounted//,/ }; do
  [[ $folder == *:* ]] || folder=$folder:$folder
  mounts+=,$folder
done
case ${CONTAINER:=} in
  '') ;;
  pyxis)
    container_options=(--container-image="$CONTAINER_IMAGE" --container-mounts="$mounts" --container-workdir="$PWD")
    ;;
  apptainer)
    container_command=(apptainer exec --bind "$mounts" --pwd "$PWD" "$CONTAINER_IMAGE")
    ((GPUS_PER_NODE == 0)) || container_command=(apptainer exec --nv "${container_command[@]:2}")
    ;;
  enroot) container_command=("$root/launch/enroot.sh" "$mounts" "$CONTAINER_IMAGE") ;;
esac
[[ -z $CONTAINER ]] || PYTHON=${CONTAINER_PYTHON:-/opt/ropewalk/.venv/bin/python}
