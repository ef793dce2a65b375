#!/bin/bash
#SBATCH --job-name=gfmpot-pretrain
#SBATCH --output=%x-%j.out
# The burst buffer, /mnt/bb/$USER:
#SBATCH --constraint=nvme
# RCCL's rendezvous at scale, with the FI_CXI_RDZV_PROTO that rccl-net-plugin sets:
#SBATCH --network=disable_rdzv_get
# A checkpoint before the end, should --max-hours not have come first:
#SBATCH --signal=USR1@300
# Pretrain on all accelerators of NODES nodes, from where RUN was left.
# ACCOUNT=... ENVIRONMENT=... DATA=... RUN=... NODES=64 WALLTIME=06:00:00 PARALLEL=task ./pretrain.sh [options]
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}" # a job runs a copy of this file
# shellcheck source=SCRIPTDIR/env.sh
source "$GFMPOT_HPC/frontier/env.sh"
pretrain "$0" "$@"
