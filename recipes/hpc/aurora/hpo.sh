#!/bin/bash -l
# Search hyper-parameters: CONCURRENT trials at a time, each on a slice of the nodes.
# ACCOUNT=... ENVIRONMENT=... DATA=... BACKBONE=painn NODES=8 ./hpo.sh [options of gfmpot hpo]
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
# shellcheck source=SCRIPTDIR/env.sh
source "$GFMPOT_HPC/aurora/env.sh"
hpo "$0" "$@"
