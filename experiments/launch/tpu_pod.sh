#!/usr/bin/env bash
# Trains on a Cloud TPU slice, one process a host: creates the slice, installs,
# mounts the bucket on every host, starts, and shows the log of host 0.
#
#   PROJECT=my-project ZONE=us-central2-b TYPE=v4-32 BUCKET=my-bucket \
#     experiments/launch/tpu_pod.sh configs/resnet50.py resnet50
#
# BUCKET/tfds holds ImageNet as ArrayRecord; the run goes to BUCKET/runs/NAME.
# The same command again resumes where a lost slice stopped. DRY_RUN=1 prints.
set -euo pipefail

config=${1:?the configuration, such as configs/resnet50.py}
run=${2:?a name for the run}
shift 2
: "${PROJECT:?}" "${ZONE:?}" "${TYPE:?such as v4-32}" "${BUCKET:?}"
name=${NAME:-slimjax}
image=${IMAGE:-tpu-ubuntu2204-base}
repository=${REPOSITORY:-$(git config --get remote.origin.url)}

say_or_do() {
  if [[ ${DRY_RUN:-} ]]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

on_all_hosts() {
  say_or_do gcloud compute tpus tpu-vm ssh "$name" --project="$PROJECT" \
    --zone="$ZONE" --worker=all --command="$1"
}

if [[ ${DRY_RUN:-} ]] || ! gcloud compute tpus tpu-vm describe "$name" \
  --project="$PROJECT" --zone="$ZONE" >/dev/null 2>&1; then
  say_or_do gcloud compute tpus tpu-vm create "$name" --project="$PROJECT" \
    --zone="$ZONE" --accelerator-type="$TYPE" --version="$image"
fi

on_all_hosts "set -e
[ -d slimjax ] || git clone $repository slimjax
cd slimjax
[ -d venv ] || python3 -m venv venv
venv/bin/pip install -q -e '.[tpu,imagenet]'"

on_all_hosts "set -e
command -v gcsfuse || sudo apt-get install -y -q gcsfuse
mkdir -p bucket
mountpoint -q bucket || gcsfuse --implicit-dirs $BUCKET bucket"

# No flags of processes: jax finds the slice. SIGTERM, which a maintenance event
# sends, saves on all hosts.
on_all_hosts "cd slimjax && exec venv/bin/python -m slimjax.train \
--config=$config --workdir=\$HOME/bucket/runs/$run \
--config.data.data_dir=\$HOME/bucket/tfds --config.model.dtype=bfloat16 $*"
