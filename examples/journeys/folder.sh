#!/usr/bin/env bash
# A folder of images and networks of timm, by the command line.
# Run it in a folder that make_data.py filled.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
source "$here/beside.sh"
cp "$(ls new/*.png | head -1)" image.png

# -> docs/quickstart.md#a-folder-of-images
understudy score "small=timm:test_byobnet?classes=10&checkpoint=small.safetensors" \
    "large=timm:test_resnet?classes=10&checkpoint=large.safetensors" --data folder:val --into table
understudy search table --reference large --max-drop 2 --out result.json
understudy build result.json --into cascade
understudy run cascade --data folder:new --out answers.parquet
understudy bench cascade --data folder:new
understudy report result.json --table table --out report.html
understudy report result.json --table table --data folder:val --out report.html
understudy serve cascade
curl --fail --silent -F image=@image.png http://localhost:8000/classify
# <-

understudy run cascade --data folder:val --out answers.csv
python "$here/check.py" result.json table answers.csv
