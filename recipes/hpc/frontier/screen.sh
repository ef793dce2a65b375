#!/bin/bash
#SBATCH --job-name=gfmpot-screen
#SBATCH --output=%x-%j.out
# The burst buffer, /mnt/bb/$USER:
#SBATCH --constraint=nvme
# RCCL's rendezvous at scale, with the FI_CXI_RDZV_PROTO that rccl-net-plugin sets:
#SBATCH --network=disable_rdzv_get
# A checkpoint before the end, should --max-hours not have come first:
#SBATCH --signal=USR1@300
# Evaluate any number of structures on all accelerators of NODES nodes.
# ACCOUNT=... ENVIRONMENT=... OUT=results MODEL=... NODES=64 ./screen.sh INPUTS... [options]
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}" # a job runs a copy of this file
# shellcheck source=SCRIPTDIR/env.sh
source "$GFMPOT_HPC/frontier/env.sh"
screen "$0" "$@"
