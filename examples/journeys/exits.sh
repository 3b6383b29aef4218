#!/usr/bin/env bash
# Early exits of one large network.
# Run it in a folder that make_data.py filled.
set -euo pipefail
here=$(dirname "$(realpath "$0")")

# -> docs/exits.md#from-a-network-to-a-cascade
understudy train-exits "net=timm:test_resnet?classes=10&checkpoint=large.safetensors" \
    --data folder:train --taps 3 --heads linear,conv64 --into exits
understudy score exits:exits --data folder:val --into table
understudy search table --max-drop 2 --out result.json
understudy build result.json --into cascade
understudy run cascade --data folder:new --out answers.parquet
# <-

understudy run cascade --data folder:val --out answers.csv
python "$here/check.py" result.json table answers.csv
