#!/usr/bin/env bash
# The same under SLURM, one task a node with all its GPUs:
#
#   sbatch --nodes=2 --gpus-per-node=8 experiments/launch/slurm.sh \
#     configs/resnet50.py /shared/runs/resnet50 /shared/tfds
#
# A minute before its time is up SLURM sends SIGTERM: the run saves, and the
# same command resumes the run.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=TERM@60
set -euo pipefail

# Not through head: it may leave before scontrol has written, which ends this.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
export COORDINATOR="$head:$((10000 + SLURM_JOB_ID % 20000))"
export HOSTS="$SLURM_NNODES"
here=${SLURM_SUBMIT_DIR:-.}/experiments/launch
srun bash -c 'exec "$0" "$1" "$2" "$3" "$SLURM_NODEID" "${@:4}"' \
  "$here/gpu_host.sh" "$@"
