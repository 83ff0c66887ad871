"""Programs that take the place of pyxis, enroot and apptainer: they run the command in a folder that is the image.

Each takes the options that launch/ gives and refuses others, mounts what it is told in a mount namespace of its own,
and treats variables and signals as the real one does:

    apptainer  hands all variables on; stays, and hands on the signals that it gets
    enroot     hands on what --env names and nothing else; replaces itself; the folder inside is the image's
    pyxis      is a plugin of srun: an `srun` in front of Slurm's own takes --container-...; hands all variables on
"""

from pathlib import Path

# mount.sh IMAGE SRC:DST,... COMMAND ...: in the image, in place of this process.
MOUNT = """#!/bin/bash
exec unshare --mount bash -ec '
image=$1
mount --rbind /dev "$image/dev" && mount -t proc proc "$image/proc"
mount --bind /etc/hosts "$image/etc/hosts"
for pair in ${2//,/ }; do mkdir -p "$image${pair#*:}"; mount --bind "${pair%%:*}" "$image${pair#*:}"; done
shift 2
exec chroot "$image" "$@"' mount "$@"
"""
APPTAINER = """#!/bin/bash
[[ $1 == exec && $2 == --bind && $4 == --pwd ]] || exit 90
"@mount" "$6" "$3" sh -c 'cd "$0" && exec "$@"' "$5" "${@:7}" &
child=$!
for name in USR1 TERM; do trap "kill -$name $child" "$name"; done
while kill -0 "$child" 2>/dev/null; do wait "$child"; done
wait "$child"
"""
ENROOT = """#!/bin/bash
[[ $1 == start ]] || exit 90
shift
mounts='' named=(PATH=/usr/local/bin:/usr/bin:/bin HOME=/root)
while [[ $1 == --* ]]; do
  case $1 in
    --mount) mounts+=,$2 ;;
    --env) named+=("$2=${!2}") ;;
    *) exit 90 ;;
  esac
  shift 2
done
exec "@mount" "$1" "${mounts#,}" env -i "${named[@]}" "${@:2}"
"""
SRUN = """#!/bin/bash
rest=() image='' mounts='' folder=''
while [[ $1 == --* ]]; do
  case $1 in
    --container-image=*) image=${1#*=} ;;
    --container-mounts=*) mounts=${1#*=} ;;
    --container-workdir=*) folder=${1#*=} ;;
    --container-*) exit 90 ;;
    *) rest+=("$1") ;;
  esac
  shift
done
[[ -n $image ]] || exec "@srun" "${rest[@]}" "$@"
exec "@srun" "${rest[@]}" "@mount" "$image" "$mounts" sh -c 'cd "$0" && exec "$@"' "$folder" "$@"
"""


def put_stand_ins(folder: Path, srun: str) -> None:
    """Write the programs into `folder`, which then comes first on PATH; srun: Slurm's own."""
    folder.mkdir()
    programs = {"mount.sh": MOUNT, "apptainer": APPTAINER, "enroot": ENROOT, "srun": SRUN}
    for name, text in programs.items():
        path = folder / name
        path.write_text(text.replace("@mount", str(folder / "mount.sh")).replace("@srun", srun))
        path.chmod(0o755)
