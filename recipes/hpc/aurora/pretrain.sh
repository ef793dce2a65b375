#!/bin/bash -l
# Pretrain on all accelerators of NODES nodes, from where RUN was left.
# ACCOUNT=... ENVIRONMENT=... DATA=... RUN=... NODES=64 WALLTIME=06:00:00 PARALLEL=task ./pretrain.sh [options]
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
# shellcheck source=SCRIPTDIR/env.sh
source "$GFMPOT_HPC/aurora/env.sh"
pretrain "$0" "$@"
