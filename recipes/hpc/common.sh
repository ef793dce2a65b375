# shellcheck shell=bash
# What the job scripts of all machines share. Sourced by <machine>/env.sh, which says how that machine
#   load_modules        loads its software
#   in_job, submit      tells a job from a login node; submits a script and prints the job's number
#   launch ARGUMENTS    runs `gfmpot ARGUMENTS` on every accelerator of every node
#   slices NODES        prints what starts a trial of `gfmpot hpo` on so many nodes of a job
#   alone ARGUMENTS     runs `gfmpot ARGUMENTS` once, with the cores of one node
#   stage_environment   brings the Python environment to the nodes, and sets GFMPOT
# Each verb below checks its settings, submits its script when it runs on a login node, and does the work in the job.

# All settings, exported so that a job sees what was set or defaulted when it was submitted.
VARIABLES=(GFMPOT_HPC ACCOUNT QUEUE NODES WALLTIME FILESYSTEMS ENVIRONMENT DATA RUN CONFIG PARALLEL MARGIN STAGE_GIB
    OUT WORKERS BACKBONE MAX_EVALS CONCURRENT MODEL)
export "${VARIABLES[@]}"
# shellcheck disable=SC2034 # used by env.sh
CHECKOUT="$(cd "$GFMPOT_HPC/../.." && pwd)"
NODES="${NODES:-1}"
WALLTIME="${WALLTIME:-02:00:00}"

log() { echo "[gfmpot] $*" >&2; }
fail() { log "error: $*" && exit 2; }

# Module commands read unset variables.
modules() {
    set +u
    module "$@"
    set -u
}

# Hours until the job's end, less MARGIN seconds for the last checkpoint: --max-hours.
hours_left() {
    [[ "$WALLTIME" =~ ^([0-9]+):([0-5][0-9]):([0-5][0-9])$ ]] || fail "WALLTIME=$WALLTIME: expected hours:mm:ss"
    local total=$((10#${BASH_REMATCH[1]} * 3600 + 10#${BASH_REMATCH[2]} * 60 + 10#${BASH_REMATCH[3]}))
    local left=$((total - SECONDS - ${MARGIN:-600}))
    ((left > 0)) || fail "WALLTIME=$WALLTIME leaves no time before the MARGIN of ${MARGIN:-600} s"
    awk -v left="$left" 'BEGIN { printf "%.3f\n", left / 3600 }'
}

# Copy DATA to every node's disk, and use it there; read it in place if it has more than STAGE_GIB.
stage_data() {
    local size limit="${STAGE_GIB:-500}" path
    size="$(du -skL "$DATA" | cut -f1)"
    if ((size > limit * 1024 * 1024)); then
        log "$DATA has $((size / 1024 / 1024)) GiB, more than STAGE_GIB=$limit: read in place"
        return
    fi
    once_per_node mkdir -p "$NODE_LOCAL/data"
    while IFS= read -r -d '' path <&3; do
        once_per_node mkdir -p "$NODE_LOCAL/data/$path"
    done 3< <(find -L "$DATA" -mindepth 1 -type d -printf '%P\0')
    while IFS= read -r -d '' path <&3; do
        broadcast "$DATA/$path" "$NODE_LOCAL/data/$path"
    done 3< <(find -L "$DATA" -type f -printf '%P\0')
    DATA="$NODE_LOCAL/data"
    log "data staged to $DATA"
}

# gfmpot data convert SOURCE IN... OUT, then verify it.
convert() { # SCRIPT SOURCE IN... [OPTIONS]
    : "${ACCOUNT:?set ACCOUNT to your project}"
    : "${ENVIRONMENT:?set ENVIRONMENT to the folder that env.sh built}"
    : "${OUT:?set OUT to the .bp to write}"
    local script="$1"
    shift
    (($# >= 2)) || fail "usage: $script SOURCE IN... [options of gfmpot data convert]"
    NODES=1
    if ! in_job; then
        submit "$script" "$@"
        return
    fi
    load_modules
    GFMPOT=("$ENVIRONMENT/bin/python" -u "$ENVIRONMENT/bin/gfmpot")
    alone data convert "$@" "$OUT" --workers "${WORKERS:-$CORES}"
    alone data verify "$OUT"
}

# gfmpot pretrain, resuming where RUN was left.
pretrain() { # SCRIPT [OPTIONS]
    : "${ACCOUNT:?set ACCOUNT to your project}"
    : "${ENVIRONMENT:?set ENVIRONMENT to the folder that env.sh built}"
    : "${DATA:?set DATA to the folder of converted .bp datasets}"
    : "${RUN:?set RUN to the folder of checkpoints and logs}"
    CONFIG="${CONFIG:-$GFMPOT_HPC/../pretrain_lead.yaml}"
    PARALLEL="${PARALLEL:-ddp}"
    [[ "$PARALLEL" =~ ^(ddp|fsdp|task)$ ]] || fail "PARALLEL=$PARALLEL: expected ddp, fsdp or task"
    local script="$1" hours
    shift
    if ! in_job; then
        submit "$script" "$@"
        return
    fi
    load_modules
    stage_environment
    [[ -z "$NODE_DISK" ]] || stage_data
    hours="$(hours_left)"
    launch pretrain --config "$CONFIG" --data "$DATA" --folder "$RUN" --parallel "$PARALLEL" --max-hours "$hours" "$@"
}

# N pretraining jobs, each of which starts after the one before (and the first after AFTER) has ended, however that was.
chain() { # SCRIPT N [OPTIONS]
    local script="$1" length="${2:-}" after="${AFTER:-}" i
    [[ "$length" =~ ^[1-9][0-9]*$ ]] || fail "usage: chain.sh NUMBER_OF_JOBS [options of gfmpot pretrain]"
    for ((i = 1; i <= length; i++)); do
        after="$(AFTER="$after" bash "$script" "${@:3}")"
        log "job $i of $length: $after"
        echo "$after"
    done
}

# gfmpot hpo: one driver, which starts the trials on slices of the job's nodes.
hpo() { # SCRIPT [OPTIONS]
    : "${ACCOUNT:?set ACCOUNT to your project}"
    : "${ENVIRONMENT:?set ENVIRONMENT to the folder that env.sh built}"
    : "${DATA:?set DATA to the folder of converted .bp datasets}"
    : "${BACKBONE:?set BACKBONE, e.g. to painn}"
    local script="$1" concurrent="${CONCURRENT:-4}" hours launcher
    shift
    ((NODES % concurrent == 0)) || fail "NODES=$NODES is no multiple of CONCURRENT=$concurrent trials"
    if ! in_job; then
        submit "$script" "$@"
        return
    fi
    load_modules
    stage_environment
    hours="$(hours_left)"
    launcher="$(slices $((NODES / concurrent)))"
    "${GFMPOT[@]}" hpo --backbone "$BACKBONE" --data "$DATA"/*.bp --max-evals "${MAX_EVALS:-200}" \
        --max-hours "$hours" --concurrent "$concurrent" \
        --ranks-per-trial $((NODES * RANKS_PER_NODE / concurrent)) --launcher "$launcher" "$@"
}

# gfmpot screen over all ranks.
screen() { # SCRIPT INPUTS... [OPTIONS]
    : "${ACCOUNT:?set ACCOUNT to your project}"
    : "${ENVIRONMENT:?set ENVIRONMENT to the folder that env.sh built}"
    : "${OUT:?set OUT to the folder of the results}"
    local script="$1"
    shift
    (($# >= 1)) || fail "usage: $script INPUTS... [options of gfmpot screen]"
    if ! in_job; then
        submit "$script" "$@"
        return
    fi
    load_modules
    stage_environment
    launch screen "$@" -o "$OUT" --model "${MODEL:-default}"
}
