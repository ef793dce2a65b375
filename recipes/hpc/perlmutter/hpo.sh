#!/bin/bash
#SBATCH --job-name=gfmpot-hpo
#SBATCH --output=%x-%j.out
#SBATCH --constraint=gpu
#SBATCH --gpus-per-node=4
# Search hyper-parameters: CONCURRENT trials at a time, each on a slice of the nodes.
# ACCOUNT=... ENVIRONMENT=... DATA=... BACKBONE=painn NODES=8 ./hpo.sh [options of gfmpot hpo]
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}" # a job runs a copy of this file
# shellcheck source=SCRIPTDIR/env.sh
source "$GFMPOT_HPC/perlmutter/env.sh"
hpo "$0" "$@"
