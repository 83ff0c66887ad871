#!/usr/bin/env bash
# Run one rank in a container of enroot: enroot.sh SRC:DST,... IMAGE COMMAND ...
#
# enroot passes on only variables that are named, and starts in the image's own folder.
set -euo pipefail
mounts=$1 image=$2
shift 2
options=()
for pair in ${mounts//,/ }; do options+=(--mount "$pair"); done
for name in $(compgen -e); do
  case $name in
    PATH | LD_LIBRARY_PATH | HOME | SHELL | PWD | OLDPWD | SHLVL | ENROOT_*) ;; # the image's own
    *) [[ ${!name} == *$'\n'* ]] || options+=(--env "$name") ;;
  esac
done
exec enroot start "${options[@]}" "$image" sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
