#!/bin/bash
#SBATCH --job-name=gfmpot-hpo
#SBATCH --output=%x-%j.out
# The burst buffer, /mnt/bb/$USER:
#SBATCH --constraint=nvme
# RCCL's rendezvous at scale, with the FI_CXI_RDZV_PROTO that rccl-net-plugin sets:
#SBATCH --network=disable_rdzv_get
# Search hyper-parameters: CONCURRENT trials at a time, each on a slice of the nodes.
# ACCOUNT=... ENVIRONMENT=... DATA=... BACKBONE=painn NODES=8 ./hpo.sh [options of gfmpot hpo]
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}" # a job runs a copy of this file
# shellcheck source=SCRIPTDIR/env.sh
source "$GFMPOT_HPC/frontier/env.sh"
hpo "$0" "$@"
