# Run a command so that Slurm can take the job back at any time; to be sourced by the sbatch scripts.
# Slurm's warning (SIGUSR1 before the time is up, SIGTERM when the job must make room) goes on to the command, which
# saves and exits with status 75; the job then goes back into the queue, and the same command goes on.

stopped=75

run_and_requeue() {
    local status=0 asked="" command=""
    trap 'asked=1; kill -USR1 "$command" 2>/dev/null || true' USR1 TERM
    (set -x; exec "$@") &
    command=$!
    # A signal ends `wait` early.
    while :; do
        status=0
        wait "$command" || status=$?
        kill -0 "$command" 2>/dev/null || break
    done
    # Killed by the warning because it had hardly begun, or ended with the warning, when bash may lose its status (255, or
    # that of a `wait` that a signal ended): calling it again is right in either case.
    case "$asked$status" in
        1$((128 + $(kill -l USR1))) | 1$((128 + $(kill -l TERM))) | 1255) status=$stopped ;;
    esac
    if [ "$status" -eq "$stopped" ] && [ -n "${SLURM_JOB_ID:-}" ]; then
        scontrol requeue "$SLURM_JOB_ID"
        sleep 120 # ending before Slurm has taken the job back would look like the end of the work
    fi
    return "$status"
}
