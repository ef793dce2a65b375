#!/bin/bash -l
# Convert a published dataset to an ADIOS2 store, on one node, and verify it.
# ACCOUNT=... ENVIRONMENT=... OUT=omat24.bp ./convert.sh SOURCE IN... [options of gfmpot data convert]
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
# shellcheck source=SCRIPTDIR/env.sh
source "$GFMPOT_HPC/aurora/env.sh"
convert "$0" "$@"
