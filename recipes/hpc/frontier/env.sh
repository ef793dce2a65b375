#!/bin/bash
# Frontier (OLCF): nodes of 4 MI250X = 8 GCDs, ROCm; SLURM; node-local NVMe.
#
#   ENVIRONMENT=/lustre/orion/<project>/proj-shared/$USER/gfmpot ./env.sh
#
# builds a conda environment there, and $ENVIRONMENT.tar.gz to broadcast. Sourced by the job scripts otherwise.
# Follows https://docs.olcf.ornl.gov/software/analytics/pytorch_frontier.html (modules, wheels, RCCL) and
# https://docs.olcf.ornl.gov/software/python/sbcast_conda.html (conda-pack, sbcast).
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
# shellcheck source=SCRIPTDIR/../common.sh
source "$GFMPOT_HPC/common.sh"
# shellcheck source=SCRIPTDIR/../slurm.sh
source "$GFMPOT_HPC/slurm.sh"

# shellcheck disable=SC2034 # used by common.sh and slurm.sh
MACHINE=frontier RANKS_PER_NODE=8 CORES=56 CPUS=56 # one core in eight is the system's
# shellcheck disable=SC2034
NODE_LOCAL="${NODE_LOCAL:-/mnt/bb/${USER:?}}" NODE_DISK=yes # with --constraint=nvme
ROCM="${ROCM:-7.1.1}"
TORCH="${TORCH:-2.10.0}"

load_modules() {
    modules load PrgEnv-gnu/8.7.0 cpe/26.03 miniforge3/23.11.0-0 "rocm/$ROCM" craype-accel-amd-gfx90a
    export LD_LIBRARY_PATH="${CRAY_LD_LIBRARY_PATH:-}:${LD_LIBRARY_PATH:-}" # the CPE is not the default one
    in_job || return 0
    # RCCL over Slingshot: the module brings the aws-ofi plugin with its FI_CXI_* and NCCL_* settings. Without it RCCL
    # talks TCP. NCCL_NET makes a plugin that did not load an error; one node has no network.
    modules load rccl-net-plugin
    export NCCL_NET=OFI NCCL_SOCKET_IFNAME=hsn0,hsn1,hsn2,hsn3
    ((SLURM_JOB_NUM_NODES > 1)) || export NCCL_NET=Socket
    read -r MASTER_ADDR _ < <(hostname -i)
    # MIOpen's database does not work on Lustre or NFS.
    export MASTER_ADDR MIOPEN_USER_DB_PATH="/tmp/$USER-miopen-$SLURM_JOB_ID"
    export MIOPEN_CUSTOM_CACHE_DIR="$MIOPEN_USER_DB_PATH"
    once_per_node mkdir -p "$MIOPEN_USER_DB_PATH"
}

settle_environment() { once_per_node "$1/bin/python" "$1/bin/conda-unpack"; } # FOLDER

# One GCD for each rank, the one next to its seven cores. srun rather than torchrun, which binds every rank to the same
# core.
BINDING=(--ntasks-per-node="$RANKS_PER_NODE" --cpus-per-task=7 --gpus-per-task=1 --gpu-bind=closest --kill-on-bad-exit=1
    --unbuffered)

launch() {
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks=$((SLURM_JOB_NUM_NODES * RANKS_PER_NODE)) "${BINDING[@]}" \
        "${GFMPOT[@]}" "$@"
}

# The job's MASTER_ADDR is its first node, a slice's is its own.
slices() { # NODES
    echo "env -u MASTER_ADDR srun --exact --nodes=$1 --ntasks={ranks} ${BINDING[*]}"
}

build() {
    : "${ENVIRONMENT:?set ENVIRONMENT to the folder to build, on Orion}"
    load_modules
    local python="$ENVIRONMENT/bin/python"
    conda create --yes --prefix "$ENVIRONMENT" --channel conda-forge python=3.12 conda-pack
    "$python" -m pip install "torch==$TORCH" --index-url "https://download.pytorch.org/whl/rocm${ROCM%.*}"
    MPICC="cc -shared" "$python" -m pip install --no-cache-dir --no-binary=mpi4py mpi4py
    "$python" -m pip install "${GFMPOT_PACKAGE:-$CHECKOUT}[adios,hpo,mpi,parquet,plot,telemetry]"
    "$python" -c 'import torch; assert torch.version.hip, f"torch {torch.__version__} is not built for ROCm"'
    "$ENVIRONMENT/bin/conda-pack" --force --prefix "$ENVIRONMENT" --output "$ENVIRONMENT.tar.gz"
    log "built $ENVIRONMENT and $ENVIRONMENT.tar.gz"
}

[[ "${BASH_SOURCE[0]}" != "$0" ]] || build
