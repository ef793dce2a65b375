# shellcheck shell=bash
# Submission and staging under SLURM; sourced by frontier/env.sh and perlmutter/env.sh.

in_job() { [[ -n "${SLURM_JOB_ID:-}" ]]; }

# Options that do not depend on the user stand in the script as #SBATCH lines.
submit() { # SCRIPT ARGUMENTS...
    local options=(--parsable --export=ALL --account="$ACCOUNT" --nodes="$NODES" --time="$WALLTIME") job
    [[ -z "${QUEUE:-}" ]] || options+=(--qos="$QUEUE")
    [[ -z "${AFTER:-}" ]] || options+=(--dependency="afterany:$AFTER")
    job="$(sbatch "${options[@]}" "$@")"
    echo "${job%%;*}" # the cluster's name may follow
}

once_per_node() { srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 "$@"; }

# A failed sbcast may leave half a file behind (https://docs.olcf.ornl.gov/software/python/sbcast_conda.html); the job
# ends then, since `set -e` is on.
broadcast() { sbcast --preserve --force "$1" "$2"; } # FILE DESTINATION

# Unpacking once per node is much faster at scale than thousands of ranks importing from one file system (same page).
stage_environment() {
    local packed="$ENVIRONMENT.tar.gz" here="$NODE_LOCAL/gfmpot-environment"
    [[ -f "$packed" ]] || fail "no $packed; build it with $GFMPOT_HPC/$MACHINE/env.sh"
    broadcast "$packed" "$NODE_LOCAL/gfmpot-environment.tar.gz"
    once_per_node mkdir -p "$here"
    once_per_node tar -xzf "$NODE_LOCAL/gfmpot-environment.tar.gz" -C "$here"
    settle_environment "$here"
    # Named in full: the scripts of an environment that was moved still start its old interpreter.
    GFMPOT=("$here/bin/python" -u "$here/bin/gfmpot")
}

# The steps, not the batch script, get sbatch's --signal (https://slurm.schedmd.com/sbatch.html#OPT_signal), and every
# process of a step does: no shell may stand between srun and Python, the signal would end it.
alone() { srun --nodes=1 --ntasks=1 --cpus-per-task="$CPUS" "${GFMPOT[@]}" "$@"; }
