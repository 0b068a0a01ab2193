#!/usr/bin/env bash
# Trains on the GPUs of this host, together with other hosts: one process a host.
# Run it on each, with the same arguments but the last:
#
#   COORDINATOR=host0:12345 HOSTS=2 \
#     experiments/launch/gpu_host.sh configs/resnet50.py /shared/runs/resnet50 \
#     /shared/tfds 0        # 0 on host0, 1 on the next, ...
#
# On one host leave COORDINATOR and HOSTS unset. DRY_RUN=1 prints.
set -euo pipefail

config=${1:?the configuration}
workdir=${2:?the workdir, on storage that all hosts share}
data_dir=${3:?the folder of TFDS}
id=${4:-0}
(($# < 4)) && shift $# || shift 4

processes=()
if [[ ${COORDINATOR:-} ]]; then
  processes=(
    "--coordinator=$COORDINATOR"
    "--process_count=${HOSTS:?how many hosts}"
    "--process_id=$id"
  )
fi
command=(
  "${PYTHON:-python}" -m slimjax.train
  "--config=$config"
  "--workdir=$workdir"
  "--config.data.data_dir=$data_dir"
  --config.model.dtype=bfloat16
  "${processes[@]}"
  "$@"
)
if [[ ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi
