#!/usr/bin/env bash
# A cascade leaves the machine that built it. Run it after folder.sh, in the same folder.
set -euo pipefail

# -> docs/journeys/production.md#export
understudy export cascade --onnx onnx --size 160x160 --check folder:val
# <-
