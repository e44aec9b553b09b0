#!/usr/bin/env bash
# Train (and test) on one machine: sbatch slurm_scripts/run_single_node_job.sh CFG JOB_DIR [KEY VALUE ...]
#SBATCH --job-name=videobench
#SBATCH --nodes=1
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
run_and_requeue "${PYTHON:-python}" tools/run_net.py --cfg "$cfg" OUTPUT_DIR "$job_dir" "$@"
