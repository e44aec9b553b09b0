#!/usr/bin/env bash
# Test a checkpoint on one machine: sbatch slurm_scripts/test.sh CFG CHECKPOINT [KEY VALUE ...]
#SBATCH --job-name=videobench-test
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: sbatch $0 CFG CHECKPOINT [KEY VALUE ...]" >&2
    exit 2
fi
cfg=$1
checkpoint=$2
shift 2

cd "${SLURM_SUBMIT_DIR:-.}"
source slurm_scripts/requeue.sh
run_and_requeue "${PYTHON:-python}" tools/run_net.py --cfg "$cfg" \
    TRAIN.ENABLE False TEST.CHECKPOINT_FILE_PATH "$checkpoint" "$@"
