#!/usr/bin/env bash
# One rank of a Slurm step: rank.sh COMMAND ...; says who it is as every launcher does (slurm.sbatch has set MASTER_*).
set -euo pipefail
export RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS LOCAL_RANK=$SLURM_LOCALID
# Where Slurm shows each rank nothing but its own GPU (--gpus-per-task, --gpu-bind), that one is number 0.
if ((${SLURM_GPUS_ON_NODE:-0} > 1)) && [[ ${CUDA_VISIBLE_DEVICES-} =~ ^[^,]+$ ]]; then LOCAL_RANK=0; fi
exec "$@"
