#!/usr/bin/env bash
# An exported cascade on a machine without PyTorch. Run it after export.sh, in a folder that holds
# nothing but onnx/ and the images new/.
set -euo pipefail
here=$(dirname "$(realpath "$0")")

# -> docs/journeys/production.md#run-without-pytorch
understudy run onnx --data folder:new --out answers.csv
# <-
cp "$(ls new/*.png | head -1)" image.png
python "$here/onnx_only.py"
