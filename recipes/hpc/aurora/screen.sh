#!/bin/bash -l
# Evaluate any number of structures on all accelerators of NODES nodes.
# ACCOUNT=... ENVIRONMENT=... OUT=results MODEL=... NODES=64 ./screen.sh INPUTS... [options]
set -euo pipefail
GFMPOT_HPC="${GFMPOT_HPC:-$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)}"
# shellcheck source=SCRIPTDIR/env.sh
source "$GFMPOT_HPC/aurora/env.sh"
screen "$0" "$@"
