#!/usr/bin/env bash
# Images without labels: agreement first, then labels for the few images that decide.
# Run it in a folder that make_data.py filled. truth.csv stands for the person who labels.
set -euo pipefail
here=$(dirname "$(realpath "$0")")

# -> docs/labels.md#from-images-without-labels
understudy score "small=timm:test_byobnet?classes=10&checkpoint=small.safetensors" \
    "large=timm:test_resnet?classes=10&checkpoint=large.safetensors" --data folder:new --into table
understudy search table --max-drop 2
understudy ask table --max-drop 2 --confidence max_softmax --without ensembles --out labels.csv
# <-
while [ "$(wc -l < labels.csv)" -gt 1 ]; do
    python "$here/fill_in.py" labels.csv truth.csv
    # -> docs/labels.md#from-images-without-labels
    understudy import-labels labels.csv --into table
    # <-
    understudy ask table --max-drop 2 --confidence max_softmax --without ensembles --out labels.csv
done
# -> docs/labels.md#from-images-without-labels
understudy search table --max-drop 2 --confidence max_softmax --without ensembles --out result.json
understudy build result.json --into cascade
# <-

understudy run cascade --data folder:new --out answers.csv
python "$here/check.py" result.json table answers.csv
