#!/bin/bash
# Aurora (ALCF): nodes of 6 Max 1550 GPUs = 12 tiles, XPU; PBS; Copper for reading the environment at scale.
#
#   ENVIRONMENT=/lus/flare/projects/<project>/$USER/gfmpot ./env.sh
#
# builds a virtual environment on top of ALCF's frameworks module there. Sourced by the job scripts otherwise.
# Follows https://docs.alcf.anl.gov/aurora/data-science/frameworks/pytorch/ (frameworks, binding),
# https://docs.alcf.anl.gov/aurora/data-science/frameworks/oneCCL/ (settings),
# https://docs.alcf.anl.gov/aurora/running-jobs-aurora/ (qsub, mpiexec) and
# https://docs.alcf.anl.gov/aurora/data-management/copper/copper/.
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
# shellcheck source=SCRIPTDIR/../common.sh
source "$GFMPOT_HPC/common.sh"

# shellcheck disable=SC2034 # used by common.sh
MACHINE=aurora RANKS_PER_NODE=12 CORES=96
# shellcheck disable=SC2034 # data are read in place: Copper's page advises against it for bulk data
NODE_DISK=""
QUEUE="${QUEUE:-prod}"
FILESYSTEMS="${FILESYSTEMS:-home:flare}"
# Four cores for each tile, on its socket; cores 0 and 52 are the system's, 42-47 and 94-99 oneCCL's, 48-51 Copper's.
CPU_BIND="list:4-7:8-11:12-15:16-19:20-23:24-27:56-59:60-63:64-67:68-71:72-75:76-79"
COPPER="/tmp/${USER:?}/copper"

in_job() { [[ -n "${PBS_JOBID:-}" ]]; }
! in_job || cd "${PBS_O_WORKDIR:?}"

# PBS knows no arguments of scripts, only of programs (after --). A login shell, for `module`.
submit() { # SCRIPT ARGUMENTS...
    local script names=() name options=()
    script="$(realpath "$1")"
    for name in "${VARIABLES[@]}"; do [[ ! -v "$name" ]] || names+=("$name"); done
    [[ -z "${AFTER:-}" ]] || options+=(-W "depend=afterany:$AFTER")
    qsub -A "$ACCOUNT" -q "$QUEUE" -N "gfmpot-$(basename "$script" .sh)" -j oe -k doe \
        -l "select=$NODES" -l place=scatter -l "walltime=$WALLTIME" -l "filesystems=$FILESYSTEMS" \
        -v "$(IFS=, && echo "${names[*]}")" "${options[@]}" -- /bin/bash -l "$script" "${@:2}"
}

load_modules() {
    modules load frameworks
    in_job || return 0
    export ZE_FLAT_DEVICE_HIERARCHY=FLAT # a tile is a device; what frameworks sets, and no gpu_tile_compact.sh then
    export CCL_PROCESS_LAUNCHER=pmix CCL_ATL_TRANSPORT=mpi CCL_KVS_MODE=mpi CCL_KVS_USE_MPI_RANKS=1
    export CCL_KVS_CONNECTION_TIMEOUT=600 CCL_CONFIGURATION=cpu_gpu_dpcpp CCL_CONFIGURATION_PATH=""
    export CCL_ALLREDUCE_SCALEOUT="direct:0-1048576;rabenseifner:1048577-max" CCL_BCAST=double_tree
    export CCL_ZE_CACHE_OPEN_IPC_HANDLES_THRESHOLD=1024 NUMEXPR_NUM_THREADS=64
    export FI_CXI_DEFAULT_CQ_SIZE=1048576 FI_CXI_OFLOW_BUF_SIZE=8388608 FI_CXI_CQ_FILL_PERCENT=30
}

# Reads of the environment go through Copper, which fetches every file once and hands it on between nodes.
stage_environment() {
    local logs="$PBS_O_WORKDIR/copper-$PBS_JOBID" packages
    packages="$("$ENVIRONMENT/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    modules load copper
    # shellcheck disable=SC2064 # the names as they are now
    trap "stop_copper.sh -d '$logs' -v '$COPPER'" EXIT
    launch_copper.sh -d "$logs" -v "$COPPER"
    export PYTHONPATH="$COPPER$packages:${PYTHONPATH:-}"
    GFMPOT=("$ENVIRONMENT/bin/python" -u "$ENVIRONMENT/bin/gfmpot")
}

alone() { "${GFMPOT[@]}" "$@"; } # PBS runs the job script on the first node

launch() {
    local nodes first
    nodes="$(sort -u "$PBS_NODEFILE" | wc -l)"
    read -r first <"$PBS_NODEFILE"
    MASTER_ADDR="${first%%.*}.hsn.cm.aurora.alcf.anl.gov" mpiexec --envall -n $((nodes * RANKS_PER_NODE)) \
        --ppn "$RANKS_PER_NODE" --cpu-bind "$CPU_BIND" "${GFMPOT[@]}" "$@"
}

# Every slot has its own nodes: mpiexec would take the job's first ones for each trial.
slices() { # NODES
    local folder="$PWD/slices-$PBS_JOBID"
    mkdir -p "$folder"
    sort -u "$PBS_NODEFILE" | awk -v nodes="$1" -v folder="$folder" '{ print >(folder "/" int((NR - 1) / nodes)) }'
    echo "bash -c 'read -r first <$folder/\$0 && MASTER_ADDR=\${first%%.*}.hsn.cm.aurora.alcf.anl.gov exec mpiexec" \
        "--envall --hostfile $folder/\$0 -n {ranks} --ppn $RANKS_PER_NODE --cpu-bind $CPU_BIND \"\$@\"' {slot}"
}

build() {
    : "${ENVIRONMENT:?set ENVIRONMENT to the folder to build, on flare}"
    load_modules
    python3 -m venv --system-site-packages "$ENVIRONMENT" # torch and mpi4py are the module's
    local python="$ENVIRONMENT/bin/python"
    "$python" -m pip install "${GFMPOT_PACKAGE:-$CHECKOUT}[adios,hpo,parquet,plot,telemetry]"
    "$python" -c 'import torch, mpi4py; assert hasattr(torch, "xpu") and torch.distributed.is_xccl_available(), \
        f"torch {torch.__version__} has no xccl: load frameworks of 2025 or later"'
    log "built $ENVIRONMENT"
}

[[ "${BASH_SOURCE[0]}" != "$0" ]] || build
