#!/usr/bin/env bash
# Demo: two generated categories, from raw scans to a report. Usage: demo.sh WORKSPACE [SEED]
# Running it again continues where it was interrupted.
set -euo pipefail
workspace=$1
seed=${2:-0}
mvad=${MVAD:-mvad}
export MVAD_WORKSPACE=$workspace
began=$SECONDS

"$mvad" synth mvtec3d --category dome --seed "$seed" --train 20 --validation 10 --good 14 --per-defect 3 --size 224
"$mvad" synth eyecandies --category dome --seed "$seed" --train 20 --validation 10 --good 14 --per-defect 4 --size 256
"$mvad" render mvtec3d --views 5 --size 128
"$mvad" render eyecandies --views 5 --size 128
"$mvad" pack
"$mvad" train --model mean_feature --model patchcore --model idif --preset demo \
    --teacher efficientnet_lite0 --textures procedural --seed "$seed"
"$mvad" evaluate --json "$workspace/figures.json"
"$mvad" report
echo "demo: $((SECONDS - began)) s"
