#!/bin/bash
#SBATCH --job-name=gfmpot-convert
#SBATCH --output=%x-%j.out
# The burst buffer, /mnt/bb/$USER:
#SBATCH --constraint=nvme
# Convert a published dataset to an ADIOS2 store, on one node, and verify it.
# ACCOUNT=... ENVIRONMENT=... OUT=omat24.bp ./convert.sh SOURCE IN... [options of gfmpot data convert]
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}" # a job runs a copy of this file
# shellcheck source=SCRIPTDIR/env.sh
source "$GFMPOT_HPC/frontier/env.sh"
convert "$0" "$@"
