#!/usr/bin/env bash
# Train (and test) on several machines: sbatch slurm_scripts/run_multi_node_job.sh CFG JOB_DIR [KEY VALUE ...]
# More or fewer machines: sbatch --nodes=4 slurm_scripts/run_multi_node_job.sh ...
#SBATCH --job-name=videobench
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=72:00:00
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: sbatch $0 CFG JOB_DIR [KEY VALUE ...]" >&2
    exit 2
fi
cfg=$1
job_dir=$2
shift 2
python=${PYTHON:-python}

cd "${SLURM_SUBMIT_DIR:-.}"
first_node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# A port of its own for every job, so that jobs on shared machines do not meet.
port=$((20000 + SLURM_JOB_ID % 20000))
set -x
# SLURM_NODEID is another one on every machine: it has to be read there.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c 'exec "$@" --shard_id "$SLURM_NODEID"' run_net \
    "$python" tools/run_net.py --cfg "$cfg" OUTPUT_DIR "$job_dir" "$@" \
    --num_shards "$SLURM_JOB_NUM_NODES" --init_method "tcp://$first_node:$port"
