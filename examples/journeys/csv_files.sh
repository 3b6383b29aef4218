#!/usr/bin/env bash
# Predictions in CSV files, with names of classes; no PyTorch.
# Run it in a folder that make_data.py filled.
set -euo pipefail
here=$(dirname "$(realpath "$0")")

# -> docs/journeys/predictions.md#csv-files
understudy import table --labels labels.csv --key id --label class \
    --exit small=small.csv --exit large=large.csv --cost small=0.2 --cost large=5 --unit "USD per 1000"
understudy search table --max-drop 2 --out result.json
understudy search table --max-drop 2 --json > plan.json
# <-

python "$here/check.py" result.json table
