#!/usr/bin/env bash
# Train (and test) on several machines: sbatch slurm_scripts/run_multi_node_job.sh CFG JOB_DIR [KEY VALUE ...]
# More or fewer machines: sbatch --nodes=4 slurm_scripts/run_multi_node_job.sh ...
#SBATCH --job-name=videobench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=72:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: sbatch $0 CFG JOB_DIR [KEY VALUE ...]" >&2
    exit 2
fi
cfg=$1
job_dir=$2
shift 2

cd "${SLURM_SUBMIT_DIR:-.}"
source slurm_scripts/requeue.sh
# One task per machine; it starts a process per GPU and meets the others at the first machine. Tasks end by themselves,
# also when others are gone (DIST.TIMEOUT): srun must not kill the first machine while it writes results, nor those that
# save a moment later than the first, for its status would be theirs then.
run_and_requeue srun --kill-on-bad-exit=0 --wait=0 \
    "${PYTHON:-python}" tools/run_net.py --cfg "$cfg" OUTPUT_DIR "$job_dir" "$@"
