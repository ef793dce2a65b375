#!/bin/bash
# Perlmutter (NERSC): nodes of 4 A100, CUDA; SLURM; no node-local disks (/tmp is memory), but all-flash scratch.
#
#   ENVIRONMENT=$PSCRATCH/gfmpot ./env.sh
#
# builds a virtual environment on top of NERSC's pytorch module there, and $ENVIRONMENT.tar.gz to broadcast. Sourced by
# the job scripts otherwise. See https://docs.nersc.gov/machinelearning/pytorch/ and
# https://docs.nersc.gov/systems/perlmutter/running-jobs/.
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
# shellcheck source=SCRIPTDIR/../common.sh
source "$GFMPOT_HPC/common.sh"
# shellcheck source=SCRIPTDIR/../slurm.sh
source "$GFMPOT_HPC/slurm.sh"

# shellcheck disable=SC2034 # used by common.sh and slurm.sh
MACHINE=perlmutter RANKS_PER_NODE=4 CORES=64 CPUS=128 # two threads a core
# shellcheck disable=SC2034 # data are read from scratch
NODE_LOCAL="${NODE_LOCAL:-/tmp/${USER:?}}" NODE_DISK=""
QUEUE="${QUEUE:-regular}"
PYTORCH_MODULE="${PYTORCH_MODULE:-pytorch/2.8.0}"

load_modules() {
    modules load "$PYTORCH_MODULE"
    in_job || return 0
    once_per_node mkdir -p "$NODE_LOCAL"
    export NCCL_SOCKET_IFNAME=hsn
}

settle_environment() { :; } # a virtual environment works wherever it is, if its interpreter is named

# All four GPUs are visible to each rank, which takes the one of its local rank: with one visible GPU per rank, opening
# each other's memory fails (https://github.com/E3SM-Project/E3SM/issues/4834). 16 cores of 2 threads for each rank.
BINDING=(--ntasks-per-node="$RANKS_PER_NODE" --cpus-per-task=32 --cpu-bind=cores --gpus-per-node=4 --gpu-bind=none
    --kill-on-bad-exit=1 --unbuffered)

launch() {
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks=$((SLURM_JOB_NUM_NODES * RANKS_PER_NODE)) "${BINDING[@]}" \
        "${GFMPOT[@]}" "$@"
}

slices() { # NODES
    echo "srun --exact --nodes=$1 --ntasks={ranks} ${BINDING[*]}"
}

build() {
    : "${ENVIRONMENT:?set ENVIRONMENT to the folder to build}"
    load_modules
    python -m venv --system-site-packages "$ENVIRONMENT"
    local python="$ENVIRONMENT/bin/python"
    MPICC="cc -target-accel=nvidia80 -shared" "$python" -m pip install --no-cache-dir --no-binary=mpi4py mpi4py
    "$python" -m pip install "${GFMPOT_PACKAGE:-$CHECKOUT}[adios,hpo,mpi,parquet,plot,telemetry]"
    "$python" -c 'import torch; assert torch.version.cuda, f"torch {torch.__version__} is not built for CUDA"'
    tar -czf "$ENVIRONMENT.tar.gz" -C "$ENVIRONMENT" .
    log "built $ENVIRONMENT and $ENVIRONMENT.tar.gz"
}

[[ "${BASH_SOURCE[0]}" != "$0" ]] || build
