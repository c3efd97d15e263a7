#!/usr/bin/env bash
# Trains the same small model with five losses and three seeds each, two runs at a time, and draws the comparison.
#     examples/aspo_vs_grpo/compare.sh [FOLDER]
# A run that is there is not run again.
set -euo pipefail
folder=${1:-runs/aspo_vs_grpo}
aspo=${ASPO:-aspo}
losses=(aspo aspo-without-dual-clip grpo grpo-without-is grpo-response-mean)
seeds=(1 2 3)
for seed in "${seeds[@]}"; do
  for loss in "${losses[@]}"; do
    echo "loss.name=$loss seed=$seed output_dir=$folder/$loss-$seed"
  done
done | xargs -P 2 -L 1 "$aspo" train "$(dirname "$0")/run.yaml"
groups=()
for loss in "${losses[@]}"; do
  groups+=(--group "$loss=$(printf "$folder/$loss-%s," "${seeds[@]}" | sed 's/,$//')")
done
"$aspo" plot "${groups[@]}" --smooth 3 --out "$folder/comparison.png" --html "$folder/comparison.html"
