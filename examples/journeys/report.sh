#!/usr/bin/env bash
# The report of a search as one HTML page, opened in a browser where there is one.
# Run it in a folder that make_data.py filled.
set -euo pipefail
here=$(dirname "$(realpath "$0")")

understudy import table --labels labels.csv --key id --label class \
    --exit small=small.csv --exit large=large.csv --cost small=0.2 --cost large=5 --unit "USD per 1000"
understudy search table --max-drop 1,2 --out result.json

# -> docs/quickstart.md#the-report
understudy report result.json --table table --out report.html
# <-

python "$here/check.py" result.json table
if browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome); then
    "$browser" --headless --no-sandbox --disable-gpu --dump-dom "file://$PWD/report.html" > shown.html 2> browser.log
    grep -q "<svg" shown.html
    if grep -i "error" browser.log | grep -i "console"; then exit 1; fi
    echo "reached: the report opens in $browser"
fi
