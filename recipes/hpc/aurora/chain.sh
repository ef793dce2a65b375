#!/bin/bash
# Pretrain in a chain of jobs, each of which resumes the one before.
# ACCOUNT=... ENVIRONMENT=... DATA=... RUN=... NODES=64 WALLTIME=06:00:00 ./chain.sh NUMBER_OF_JOBS [options]
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
# shellcheck source=SCRIPTDIR/env.sh
source "$GFMPOT_HPC/aurora/env.sh"
chain "$GFMPOT_HPC/aurora/pretrain.sh" "$@"
